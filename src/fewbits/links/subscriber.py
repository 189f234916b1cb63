"""Subscriber: the receiving end of a broadcast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fewbits.errors import DesyncError, WireError
from fewbits.links.bundle import lone_ack, unpack
from fewbits.links.downlink import Downlink, Part, value_of
from fewbits.links.identity import PATCH, SEED, codec_hash
from fewbits.links.patch import read_patch
from fewbits.links.personal_updates import PersonalUpdates
from fewbits.links.receiver import Receiver
from fewbits.links.receiver_state import ReceiverState
from fewbits.links.shared_init import Build, read_seed
from fewbits.spec import Spec, TreeSpec
from fewbits.wire import BitWriter, Frame, Header


class Subscriber:
    """Take bundles, hold the public value, or one near it that only this end and the server know.

    With an own part in the downlink, what the last bundle began with is held too, until a bundle is taken that goes on
    from the newest value: so it does not matter whether the server has heard that the last one came.
    """

    def __init__(self, codec: Part | Downlink, spec: Spec | TreeSpec, build: Build | None = None) -> None:
        """`build` makes the first value from a key, for servers that send a seed instead of it."""
        down = Downlink.of(codec)
        self._codec, self._spec, self._build = down.public, spec, build
        self._receiver = Receiver(self._codec, spec)
        self._own = None if down.own is None else PersonalUpdates(down.own, spec)
        self._none = ReceiverState(None, 0, self._receiver.history, self._receiver.state)
        self._now, self._before = self._none, self._none
        self._steps: dict[int, Callable[[Frame, bytes, ReceiverState], ReceiverState]] = {
            codec_hash(self._codec, spec, SEED): self._seed,
            codec_hash(self._codec, spec, PATCH): self._patch,
            self._receiver.hash: self._public,
        }
        if self._own is not None:
            self._steps[self._own.hash] = self._difference
        self._whole = b""  # the last frame of a stateless public codec, which is all there is to know
        self.ack: int | None = None  # what came with the last bundle: frames accepted from us, modulo 2^16

    @property
    def value(self) -> Any:
        """What is held; None: nothing yet."""
        return self._now.value

    @property
    def version(self) -> int:
        """Of the public value that is held or that ours stands for; the acknowledgement for the next frame."""
        return self._now.version

    @property
    def own(self) -> bool:
        """Whether the value is not the public one."""
        return self._now.own

    def receive(self, bundle: bytes) -> Any:
        """The value after this bundle; frames whose value is already here are passed over. Nothing changes on errors.

        WireError: damaged or foreign. DesyncError: it does not begin where we are.
        """
        self.ack = None
        ack = lone_ack(bundle)
        if ack is not None:
            if self.value is None:
                raise WireError("a first bundle must hold the public value; this one is empty")
            self.ack = ack
            return self.value
        frames = unpack(bundle)
        start = self._now
        try:
            now, ack = self._follow(frames, start)
        except DesyncError:
            if self._own is None or self._before is start:
                raise
            start = self._before
            now, ack = self._follow(frames, start)
        self._now, self._before = now, start if self._own is not None else self._none
        self.ack = ack
        return self.value

    def _follow(self, frames: Sequence[bytes], track: ReceiverState) -> tuple[ReceiverState, int]:
        """(what is held after these frames, the acknowledgement that the last one carries)."""
        latest = ack = 0
        for data in frames:
            frame = Frame.parse(data)
            step = self._steps.get(frame.header.codec)
            if step is None:
                raise WireError(f"frame is of another codec or Spec: its hash is {frame.header.codec:04X}")
            track = step(frame, data, track)
            latest, ack = frame.header.sequence + (step == self._public and not frame.header.snapshot), frame.header.ack
        if latest < track.version:
            raise DesyncError(
                f"the bundle ends at version {latest}, we hold version {track.version}: the server has gone back; "
                "begin with a new Follower"
            )
        return track, ack

    def _seed(self, frame: Frame, data: bytes, track: ReceiverState) -> ReceiverState:
        """Version 1, made here."""
        if track.version and not track.own:
            return track
        value = read_seed(frame, self._spec, self._build)
        return ReceiverState(value, 1, frame.header.history, self._codec.start(value, self._spec))

    def _patch(self, frame: Frame, data: bytes, track: ReceiverState) -> ReceiverState:
        if frame.header.sequence <= track.version and not track.own:
            return track
        return read_patch(frame, self._codec, self._spec, track)

    def _difference(self, frame: Frame, data: bytes, track: ReceiverState) -> ReceiverState:
        assert self._own is not None
        if frame.header.snapshot:
            raise WireError("this frame is a stored value of a receiver's own; it has no place in a bundle")
        return self._own.decode(frame, track)

    def _public(self, frame: Frame, data: bytes, track: ReceiverState) -> ReceiverState:
        """An entry of the log, or a snapshot."""
        header, receiver = frame.header, self._receiver
        if header.snapshot:
            if self._codec.stateless:
                raise WireError(f"a snapshot came, but {self._codec!r} has no state")
            receiver.adopt(data)
            value = value_of(self._codec, receiver.state, self._spec)
            return ReceiverState(value, receiver.expects, receiver.history, receiver.state)
        if header.sequence < track.version and not track.own:
            return track
        if track.own and not header.key:
            raise DesyncError(
                f"an entry leads on from public version {header.sequence}; we hold a value of our own, of version "
                f"{track.version}"
            )
        receiver.expects, receiver.history, receiver.state = track.version, track.history, track.state
        value = receiver.receive(data)
        if self._codec.stateless:
            self._whole = data
        return ReceiverState(value, receiver.expects, receiver.history, receiver.state)

    def dump(self) -> bytes:
        """What is held, for a StateStore."""
        if self._now.own:
            assert self._own is not None
            return self._own.store(self._now)
        if self._codec.stateless:
            return self._whole
        out = BitWriter()
        self._codec.write_state(self._now.state, self._spec, out)
        header = Header(self._receiver.hash, self._now.version, self._now.history, snapshot=True)
        return bytes(Frame(header, out.finish()))

    def load(self, data: bytes | None) -> None:
        """Become what was dumped; None: new. WireError when the bytes are damaged or another codec's."""
        self._now = self._before = self._none
        if not data:
            return
        frame = Frame.parse(data)
        if self._own is not None and frame.header.codec == self._own.hash:
            self._now = self._own.stored(frame)
        else:
            self._now = self._public(frame, data, self._none)
