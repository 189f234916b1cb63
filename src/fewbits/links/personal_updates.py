"""PersonalUpdates: lossy differences for one receiver alone, and the frames that describe what it holds.

w' = w + C(v - w), with v the public value and w what the receiver holds: EF21-P (Gruntkowska et al. 2023), one
reference per receiver. What C misses is in the next difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from fewbits.codecs import Keys, Lift
from fewbits.errors import DesyncError, LocalError, WireError
from fewbits.links.bundle import leb, pack, unleb, unpack
from fewbits.links.downlink import value_of
from fewbits.links.finite import all_finite
from fewbits.links.identity import PERSONAL, codec_hash, first_history, next_history
from fewbits.links.receiver_state import ReceiverState
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec
from fewbits.wire import BitReader, BitWriter, Frame, Header


class HeldState(NamedTuple):
    """What a receiver holds, as the server keeps it: a public version, then the frames made for this receiver alone.

    A first frame that stands by itself (from zeros, or a stored state) needs no public version.
    """

    base: int = 0  # public version; 0: none
    frames: tuple[bytes, ...] = ()

    @property
    def version(self) -> int:
        """The version that the receiver acknowledges."""
        return Frame.parse(self.frames[-1]).header.sequence if self.frames else self.base

    @property
    def alone(self) -> bool:
        """Whether the frames need no public version."""
        return bool(self.frames) and _stands(Frame.parse(self.frames[0]).header)

    def __bytes__(self) -> bytes:
        return leb(self.base) + pack(self.frames)

    @staticmethod
    def read(data: bytes) -> HeldState:
        """Undo `bytes`; WireError when they are damaged."""
        base, at = unleb(data, 0)
        return HeldState(base, tuple(unpack(data[at:])))


class PersonalUpdates:
    """Frames that lead one receiver from what it holds to near a public value."""

    def __init__(self, codec: Lift, spec: Spec | TreeSpec) -> None:
        """`codec`: groups of Delta or LastValue over stateless codecs (`Downlink.personal`)."""
        self.codec, self.spec = codec, spec
        codec.check(spec)
        self.hash = codec_hash(codec, spec, PERSONAL)
        self._first = first_history(codec, spec, PERSONAL)

    def blank(self) -> ReceiverState:
        """Zeros, from which a receiver starts that holds nothing."""
        return ReceiverState(None, 0, self._first, self.codec.init(self.spec), personal=True)

    def encode(self, value: Any, version: int, before: ReceiverState, key: Key) -> bytes:
        """The frame that leads from `before` to near the public `value` of `version`; from zeros it is a key frame."""
        keys = Keys(key.fold("own", version), _common(version))
        message, _ = self.codec.encode(value, self.spec, self._state(before), self.codec.memory(self.spec), keys)
        out = BitWriter()
        self.codec.write(message, self.spec, out)
        return bytes(Frame(Header(self.hash, version, before.history, key=before.value is None), out.finish()))

    def decode(self, frame: Frame, before: ReceiverState) -> ReceiverState:
        """What the receiver holds after it; DesyncError when the frame was made for another value than `before`."""
        header = frame.header
        if header.key:
            before = self.blank()
        if before.value is None and not header.key:
            raise DesyncError(f"a difference for version {header.sequence} came, but there is no value to add it to")
        if header.history != before.history or header.sequence < before.version:
            raise DesyncError(
                f"a difference for version {header.sequence} was made for another value than ours, of version "
                f"{before.version}: its history is {header.history:06X}, ours {before.history:06X}"
            )
        common = _common(header.sequence)
        src = BitReader(frame.payload)
        message = self.codec.read(self.spec, src, common)
        src.finish()
        value, state = self.codec.decode(message, self.spec, self._state(before))
        if not all_finite(value):
            raise WireError("the frame decodes to values that are not finite")
        history = next_history(before.history, common, header.sequence, frame.crc)
        return ReceiverState(value, header.sequence, history, state, personal=True)

    def store(self, before: ReceiverState) -> bytes:
        """A personal value as a frame that stands by itself: for a StateStore, never for the wire."""
        if not before.personal:
            raise LocalError("PersonalUpdates.store: a public value needs no frame of its own")
        out = BitWriter()
        self.codec.write_state(before.state, self.spec, out)
        return bytes(Frame(Header(self.hash, before.version, before.history, snapshot=True), out.finish()))

    def stored(self, frame: Frame) -> ReceiverState:
        """Undo `store`."""
        src = BitReader(frame.payload)
        state = self.codec.read_state(self.spec, src)
        src.finish()
        header = frame.header
        value = value_of(self.codec, state, self.spec)
        return ReceiverState(value, header.sequence, header.history, state, personal=True)

    def replay(self, frames: Sequence[bytes], before: ReceiverState) -> ReceiverState:
        """What a receiver holds that began with `before` and took these frames."""
        for frame in map(Frame.parse, frames):
            before = self.stored(frame) if frame.header.snapshot else self.decode(frame, before)
        return before

    def _state(self, before: ReceiverState) -> Any:
        return before.state if before.personal else self.codec.start(before.value, self.spec)


def _stands(header: Header) -> bool:
    return header.key or header.snapshot


def _common(version: int) -> Key:
    return Key(0).fold("own", version)
