"""Broadcast: one sender, many receivers, some of whom were away.

The server's history is a log of encoded entries with versions. A receiver at version v gets what is shorter: the
entries v+1..t, or a snapshot of the public value.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from fewbits.codecs import Codec, Delta, Hold, Lift, Route, Transform, as_lift
from fewbits.codecs.lift import cut
from fewbits.codecs.span import copied
from fewbits.coders.base import Coder
from fewbits.errors import DesyncError, LocalError, WireError
from fewbits.link.receiver import Receiver
from fewbits.link.sender import Sender
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec
from fewbits.wire import Frame

MAX_FRAMES = 2**16


class Broadcast:
    """The sending end: publish values, then ask for the bundle that brings a receiver up to date.

    With a stateless codec every entry is the whole value and only the last one is ever needed. With `Delta(...)` the
    first value travels as a snapshot and the entries are differences; groups of a `route` that are stateless beside
    such a one are put under `Hold`. Other stateful codecs are refused: their snapshot would not hold the current value.
    """

    def __init__(self, codec: Codec | Transform | Coder, spec: Spec | TreeSpec, key: Key, keep: int = 64) -> None:
        """`keep`: entries in the log (one, of whole values); receivers further behind get a snapshot."""
        self._sender = Sender(_holding(codec, "Broadcast"), spec, key)
        self._log: deque[bytes] = deque(maxlen=1 if self._sender.codec.stateless else keep)
        self._snapshot: bytes | None = None
        self.keep = keep
        self.value: Any = None  # the public value: what every up-to-date receiver has, bit for bit

    @property
    def version(self) -> int:
        """Of the value last published; 0: nothing yet."""
        return self._sender.sequence

    @property
    def entry(self) -> bytes:
        """The frame published last; LocalError while there is none."""
        if not self._log:
            raise LocalError("Broadcast: no entry has been published after the first value")
        return self._log[-1]

    @property
    def codec(self) -> Lift:
        """What the entries are encoded with."""
        return self._sender.codec

    @property
    def codecs(self) -> list[tuple[Lift, Spec | TreeSpec]]:
        """What its frames are made with."""
        return [(self.codec, self._sender.spec)]

    def publish(self, x: Any) -> None:
        """Make x, as the codec renders it, the next version."""
        sender = self._sender
        self._snapshot = None
        if self.version == 0 and not sender.codec.stateless:
            sender.start(x)
            sender.sequence = 1  # so that versions and sequence numbers agree
            self.value = copied(x)
        else:
            if sender.codec.stateless:
                sender.resync()  # an entry that is whole needs no history
            self._log.append(sender.send(x))
            self.value = sender.value
            sender.commit()

    def frames(self, version: int | None) -> list[bytes]:
        """The frames for a receiver at `version` (None or 0: new): the cheapest that there are."""
        if self.version == 0:
            raise LocalError("Broadcast: nothing has been published")
        if version == self.version:
            return []
        if self._sender.codec.stateless:
            return [self._log[-1]]
        missed = self.version - (version or 0)
        entries = list(self._log)[-missed:] if version and missed <= len(self._log) else None
        snapshot = self._snapshot = self._snapshot or self._sender.snapshot()
        if entries is None or sum(map(len, entries)) > len(snapshot):
            return [snapshot]
        return entries

    def bundle(self, version: int | None, ack: int = 0) -> bytes:
        """The frames for a receiver at `version` as one message, the last one carrying the receiver's acknowledgement.

        Without frames (the receiver is up to date) the acknowledgement follows the count.
        """
        frames = self.frames(version)
        if not frames:
            return pack([]) + _leb(ack % 2**16)
        return acknowledged(frames, ack)

    def dump(self) -> list[bytes]:
        """The sender, then the log, for a checkpoint; `value` is not in it."""
        return [self._sender.dump(), *self._log]

    def load(self, dumped: Sequence[bytes], value: Any) -> None:
        """Become the broadcast that was dumped, whose public value was `value`."""
        self._sender.load(dumped[0])
        self._log.clear()
        self._log.extend(dumped[1:])
        self.value, self._snapshot = value, None


class Follower:
    """The receiving end: take bundles, hold the public value."""

    def __init__(self, codec: Codec | Transform | Coder, spec: Spec | TreeSpec) -> None:
        self._codec, self._spec = _holding(codec, "Follower"), spec
        self._receiver = Receiver(self._codec, spec)
        self.value: Any = None
        self.ack: int | None = None  # what came with the last bundle: frames accepted from us, modulo 2^16
        self._last = b""  # the last frame, which is all there is to know when the codec has no state

    def dump(self) -> bytes:
        """A bundle that makes a new Follower what this one is, for a StateStore; needs a value."""
        return pack([self._last if self._codec.stateless else self._receiver.dump()])

    @property
    def version(self) -> int:
        """Of the public value held; the acknowledgement for the next frame the other way."""
        return self._receiver.expects

    def receive(self, bundle: bytes) -> Any:
        """The public value after this bundle; entries that are already here are passed over.

        On an error, the frames before the bad one have been taken.
        """
        self.ack = None
        if bundle[:1] == pack([]):
            if self.value is None:
                raise WireError("a first bundle must hold the public value; this one is empty")
            self.ack = _lone_ack(bundle)
            return self.value
        latest = self.version
        for data in unpack(bundle):
            header = Frame.parse(data).header
            latest = header.sequence + (not header.snapshot)
            self.ack = header.ack
            if header.sequence < self.version and not header.snapshot:
                continue
            if header.snapshot:
                self._receiver.adopt(data)
                # Only Delta and Hold make snapshots, and their states begin with the value.
                self.value = _values(self._codec, self._receiver.state, self._spec)
            else:
                self.value = self._receiver.receive(data)
                self._last = data
        if latest < self.version:
            raise DesyncError(
                f"the bundle ends at version {latest}, we hold version {self.version}: the server has gone back; "
                "begin with a new Follower"
            )
        return self.value


def _holding(codec: Codec | Transform | Coder, owner: str) -> Lift:
    """The lift, changed so that its shared state holds the value when any of it does."""
    lift = as_lift(codec, owner)
    if isinstance(lift, Route) and not lift.stateless:
        lift = Route(tuple((pattern, Hold(own) if own.stateless else own) for pattern, own in lift.rules))
    if not lift.stateless and not all(isinstance(own, Delta | Hold) for own in lift.inner):
        raise LocalError(f"{owner}: every group needs a stateless codec or Delta(...); got {lift!r}")
    return lift


def _values(codec: Lift, state: Any, spec: Spec | TreeSpec) -> Any:
    """The value that a state of Delta or Hold stands for, cut back into tensors."""
    return cut([own[0].clone() for own in state], codec.groups(spec), spec)


def acknowledged(frames: Sequence[bytes], ack: int) -> bytes:
    """One or more frames as a bundle, the last one carrying the receiver's acknowledgement."""
    return pack([*frames[:-1], bytes(Frame.parse(frames[-1]).acknowledging(ack))])


def pack(frames: Sequence[bytes]) -> bytes:
    """Count, then each frame after its length; all numbers LEB128."""
    return b"".join([_leb(len(frames)), *(part for frame in frames for part in (_leb(len(frame)), frame))])


def packed_bytes(lengths: Sequence[int]) -> int:
    """The length of what `pack` makes of frames of these lengths.

    >>> packed_bytes([16, 200]) == len(pack([bytes(16), bytes(200)]))
    True
    """
    return len(_leb(len(lengths))) + sum(len(_leb(length)) + length for length in lengths)


def unpack(bundle: bytes) -> list[bytes]:
    """Undo `pack`; WireError on anything else."""
    count, at = _unleb(bundle, 0)
    if count > MAX_FRAMES:
        raise WireError(f"bundle claims {count} frames; at most {MAX_FRAMES} are allowed")
    frames = []
    for _ in range(count):
        length, at = _unleb(bundle, at)
        if length > len(bundle) - at:
            raise WireError(
                f"bundle ends too early: a frame of {length} bytes at byte {at}, {len(bundle) - at} are left"
            )
        frames.append(bytes(bundle[at : at + length]))
        at += length
    if at != len(bundle):
        raise WireError(f"bundle is too long: {len(bundle) - at} bytes follow its last frame")
    return frames


def _lone_ack(bundle: bytes) -> int:
    ack, end = _unleb(bundle, 1)
    if ack >= 2**16 or end != len(bundle):
        raise WireError("a bundle without frames holds a count of zero and an acknowledgement of 16 bits, no more")
    return ack


def _leb(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _unleb(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            if shift and not byte:
                raise WireError("bundle holds a number with needless bytes")
            return value, at
    raise WireError("bundle holds a number that does not end")
