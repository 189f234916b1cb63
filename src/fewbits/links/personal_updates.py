"""PersonalUpdates: lossy differences for one receiver alone, and the recipe of what it holds.

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
from fewbits.links.identity import OWN, codec_hash, first_history, next_history
from fewbits.links.receiver_state import ReceiverState
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec
from fewbits.wire import BitReader, BitWriter, Frame, Header


class HeldState(NamedTuple):
    """How to make what a receiver holds: a public version, then the frames that were made for it alone.

    A first frame that stands by itself (from zeros, or a stored state) needs no public version.
    """

    base: int = 0  # public version; 0: none
    frames: tuple[bytes, ...] = ()

    @property
    def version(self) -> int:
        """What the receiver acknowledges."""
        return Frame.parse(self.frames[-1]).header.sequence if self.frames else self.base

    @property
    def alone(self) -> bool:
        """Whether no public version is needed."""
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
        """`codec`: groups of Delta or Hold over stateless codecs (`Downlink.own`)."""
        self.codec, self.spec = codec, spec
        codec.check(spec)
        self.hash = codec_hash(codec, spec, OWN)
        self._first = first_history(codec, spec, OWN)

    def blank(self) -> ReceiverState:
        """What a receiver without anything starts from: zeros."""
        return ReceiverState(None, 0, self._first, self.codec.init(self.spec), own=True)

    def encode(self, value: Any, version: int, track: ReceiverState, key: Key) -> bytes:
        """The frame that leads from `track` to near the public `value` of `version`; a blank track's is a key frame."""
        keys = Keys(key.fold("own", version), _common(version))
        message, _ = self.codec.encode(value, self.spec, self._state(track), self.codec.memory(self.spec), keys)
        out = BitWriter()
        self.codec.write(message, self.spec, out)
        return bytes(Frame(Header(self.hash, version, track.history, key=track.value is None), out.finish()))

    def decode(self, frame: Frame, track: ReceiverState) -> ReceiverState:
        """What the receiver holds after it; DesyncError when the frame is for somebody who holds something else."""
        header = frame.header
        if header.key:
            track = self.blank()
        if track.value is None and not header.key:
            raise DesyncError(f"a difference for version {header.sequence} came, but there is no value to add it to")
        if header.history != track.history or header.sequence < track.version:
            raise DesyncError(
                f"a difference for version {header.sequence} was made for another value than ours, of version "
                f"{track.version}: its history is {header.history:06X}, ours {track.history:06X}"
            )
        common = _common(header.sequence)
        src = BitReader(frame.payload)
        message = self.codec.read(self.spec, src, common)
        src.finish()
        value, state = self.codec.decode(message, self.spec, self._state(track))
        if not all_finite(value):
            raise WireError("the frame decodes to values that are not finite")
        history = next_history(track.history, common, header.sequence, frame.crc)
        return ReceiverState(value, header.sequence, history, state, own=True)

    def store(self, track: ReceiverState) -> bytes:
        """A receiver's own track as a frame that stands by itself: for a StateStore, never for the wire."""
        if not track.own:
            raise LocalError("PersonalUpdates.store: the track is the public one")
        out = BitWriter()
        self.codec.write_state(track.state, self.spec, out)
        return bytes(Frame(Header(self.hash, track.version, track.history, snapshot=True), out.finish()))

    def stored(self, frame: Frame) -> ReceiverState:
        """Undo `store`."""
        src = BitReader(frame.payload)
        state = self.codec.read_state(self.spec, src)
        src.finish()
        header = frame.header
        return ReceiverState(value_of(self.codec, state, self.spec), header.sequence, header.history, state, own=True)

    def replay(self, frames: Sequence[bytes], track: ReceiverState) -> ReceiverState:
        """What a receiver holds who began with `track` and took these frames."""
        for frame in map(Frame.parse, frames):
            track = self.stored(frame) if frame.header.snapshot else self.decode(frame, track)
        return track

    def _state(self, track: ReceiverState) -> Any:
        return track.state if track.own else self.codec.start(track.value, self.spec)


def _stands(header: Header) -> bool:
    return header.key or header.snapshot


def _common(version: int) -> Key:
    return Key(0).fold("own", version)
