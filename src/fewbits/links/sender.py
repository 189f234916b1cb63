"""Sender: the end of a link that encodes."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import torch

from fewbits.checks import check_whole
from fewbits.codecs import Codec, Keys, Lift, Transform, as_lift
from fewbits.codecs.flat_view import copied
from fewbits.codecs.same_memory import same_memory
from fewbits.coders.base import Coder
from fewbits.errors import LocalError, WireError
from fewbits.links.acknowledgement import frames_ahead
from fewbits.links.agreed import Agreed
from fewbits.links.finite import check_finite, check_tree, reach
from fewbits.links.identity import codec_hash, first_history, next_history
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec
from fewbits.wire import BitReader, BitWriter, Frame, Header, Section
from fewbits.wire.frame import MAX_SEQUENCE

DECODING = "Sender.send, decoding the frame just made"


class _Pending(NamedTuple):
    """The state of this end once the peer has the frame."""

    state: Any
    memory: Any
    history: int


class Sender:
    """Encode values into frames, one at a time.

    `send` leaves everything pending: `commit` once the peer has the frame, or `rollback`, after which the same value
    gives the same bytes. `acknowledge` does either, by the peer's count of accepted frames. The new shared state comes
    from decoding the message with the receiver's function, so that both ends hold the same bits.

    Args:
        codec: what the values are encoded with; under `flat`, unless it is a lift.
        spec: names, shapes and dtypes of the values.
        key: private randomness, such as the dither of a quantiser.
        common: randomness that the receiver draws, too, such as supports that are never sent.

    Raises:
        LocalError: a value does not fit `spec` or is not finite, the last frame is still pending, or the link has
            carried its 2^24 - 1 frames.

    >>> import torch, fewbits as fb
    >>> x = torch.arange(4.0)
    >>> sender = fb.Sender(fb.Raw(), fb.Spec.of(x), fb.Key(0))
    >>> receiver = fb.Receiver(fb.Raw(), fb.Spec.of(x))
    >>> frame = sender.send(x)
    >>> len(frame), receiver.receive(frame)
    (32, tensor([0., 1., 2., 3.]))
    >>> sender.commit()
    """

    def __init__(self, codec: Codec | Transform | Coder, spec: Spec | TreeSpec, key: Key, common: Key = Key(0)) -> None:
        self.codec: Lift = as_lift(codec, "Sender")
        self.spec, self.key, self.common = spec, key, common
        if not isinstance(key, Key) or not isinstance(common, Key):
            raise LocalError(f"Sender: key and common must be Keys, such as Key(0); got {key!r} and {common!r}")
        self.codec.check(spec)
        contract = self.codec.contract(spec)
        self._bounded, self._linear = contract.bounded, contract.linear
        self._stateless = self.codec.stateless
        leaves = [leaf for _, leaf in spec] if isinstance(spec, TreeSpec) else [spec]
        self._most = min((torch.finfo(leaf.torch_dtype).max for leaf in leaves if not leaf.integer), default=math.inf)
        self._hash = codec_hash(self.codec, spec)
        self.sequence = 0  # of the next frame
        self.state: Any = self.codec.init(spec)
        self.memory: Any = self.codec.memory(spec)
        self._history = self._first = first_history(self.codec, spec)
        self.agreed: Agreed | None = None  # what key frames begin with, if the receiver has it, too
        self._key_frame = False
        self._pending: _Pending | None = None
        self.sections: list[Section] = []  # of the last frame's payload
        self.message: Any = None  # the last one encoded
        self._before: Any = None  # the shared state that it was encoded with

    @property
    def value(self) -> Any:
        """What the receiver decodes from the last frame."""
        value, after = self.codec.decode(self.message, self.spec, self._before)
        pending = self._pending and self._pending[:2]
        return copied(value) if same_memory(value, (self.message, self._before, after, pending)) else value

    @property
    def pending(self) -> bool:
        """Whether the last frame is neither committed nor rolled back."""
        return self._pending is not None

    @property
    def history(self) -> int:
        """24-bit digest of what was committed since the last key frame."""
        return self._history

    def send(self, x: Any, ack: int = 0, common: Key | None = None) -> bytes:
        """The next frame, for `x` of this link's Spec.

        `ack` is the count of frames accepted on the link the other way; `common` overrides the frame's common key (both
        ends must do so). Raises LocalError, with nothing changed, when the last frame is neither committed nor rolled
        back, when x does not fit the Spec, or naming the tensor that is not finite.
        """
        frame = b"".join(self.pieces(x, ack, common))
        assert self._pending is not None
        made = self._pending.state, self._pending.memory, self.message
        if same_memory(made, x):  # the caller may change x, so what lies in its memory is copied
            done: dict[int, Any] = {}
            state, memory, self.message = (copy.deepcopy(y, done) if same_memory(y, x) else y for y in made)
            self._pending = self._pending._replace(state=state, memory=memory)
        return frame

    def pieces(
        self, x: Any, ack: int = 0, common: Key | None = None, checked: bool = False
    ) -> list[bytes | memoryview]:
        """The pieces of the frame that `send` makes, for carriers that can write them; use them before the next call.

        The sender takes over `x`, which must not be changed any more. `checked`: it fits the Spec and is finite.
        """
        if self._pending is not None:
            raise LocalError("Sender: the last frame is still pending; commit() it or rollback() first")
        if self.sequence >= MAX_SEQUENCE:  # a stored end names its next frame, so the last number stays unused
            raise LocalError(f"Sender: a link carries {MAX_SEQUENCE} frames; open a new one (sequence {self.sequence})")
        if not checked:
            check_tree(x, self.spec, "Sender.send")
            check_finite(x, "Sender.send")
        common = common or self.common.fold(self.sequence)
        state, history = self.state, self._history
        if self._key_frame:
            state, history = self.agreed or (self.codec.init(self.spec), self._first)
        keys = Keys(self.key.fold(self.sequence), common)
        message, memory = self.codec.encode(x, self.spec, state, self.memory, keys)
        out = BitWriter()
        self.codec.write(message, self.spec, out)
        before = state
        if self._linear:  # it may leave the range when it is expanded
            value, state = self.codec.decode(message, self.spec, before)
            check_finite(value, DECODING)
        elif self._bounded:  # what the receiver gets is finite
            state = state if self._stateless else self.codec.follow(message, self.spec, before)
        else:
            partials, state = self.codec.partials(message, self.spec, before)  # decoded, but not spread out
            # The receiver would refuse the frame if its sum, expanded and in the value's own dtype, were not finite.
            if max(map(reach, partials), default=0.0) > self._most or any(p.side is not None for p in partials):
                check_finite(self.codec.decode(message, self.spec, before)[0], DECODING)
        header = Header(self._hash, self.sequence, history, ack % 2**16, key=self._key_frame)
        pieces, crc = Frame.seal(header, out.chunks())
        self._pending = _Pending(state, memory, next_history(history, common, self.sequence, crc))
        self.sections, self.message, self._before = out.sections, message, before
        return pieces

    def commit(self) -> None:
        """The peer has the last frame."""
        if self._pending is None:
            raise LocalError("Sender: there is no pending frame to commit")
        self.state, self.memory, self._history = self._pending
        self._pending, self._key_frame = None, False
        self.sequence += 1

    def rollback(self) -> None:
        """The peer does not have the last frame: this end is as it was before `send`."""
        if self._pending is None:
            raise LocalError("Sender: there is no pending frame to roll back")
        self._pending = None

    def acknowledge(self, ack: int) -> bool:
        """Settle the pending frame by the peer's count of accepted frames, modulo 2^16; True when the frame counted.

        When the peer has accepted other frames than this end sent, one of the ends was restored from an older copy, and
        the next frame is a key frame. It takes the number that the peer expects if that is later than ours, since a
        peer refuses the numbers that it has seen. A copy that is more than 2^15 frames older looks like a peer that
        lost frames; its frames are refused until `resync` is given the number that the peer expects.
        """
        arrived = self._pending is not None and frames_ahead(ack, self.sequence) == 1
        if arrived:
            self.commit()
        elif self._pending is not None:
            self.rollback()
        if ahead := frames_ahead(ack, self.sequence):
            self.resync(self.sequence + ahead)
        return arrived

    def resync(self, sequence: int | None = None) -> None:
        """Make the next frame a key frame, which any receiver of this codec takes; memory stays.

        `sequence` is the number that the receiver expects, if it is known; our own number stays when it is later.
        """
        if sequence is not None:
            check_whole("Sender.resync: sequence", sequence, 0, MAX_SEQUENCE + 1)
        self._pending, self._key_frame = None, True
        self.sequence = max(self.sequence, sequence or 0)

    def start(self, x: Any) -> None:
        """Begin from a value; a receiver begins there by `snapshot`."""
        check_tree(x, self.spec, "Sender.start")
        check_finite(x, "Sender.start")
        self.state = self.codec.start(copied(x), self.spec)

    def snapshot(self) -> bytes:
        """A frame with the whole shared state, from which a receiver can take the next frame."""
        out = BitWriter()
        with out.section("state"):
            self.codec.write_state(self.state, self.spec, out)
        return bytes(Frame(Header(self._hash, self.sequence, self._history, snapshot=True), out.finish()))

    def observe(self) -> dict[str, float]:
        """Figures of the pending or last frame, such as `recycled`."""
        return self.codec.observe(self.message, self._pending.memory if self._pending else self.memory)

    def dump(self) -> bytes:
        """This end as bytes, for a StateStore: header, shared state, memory. Nothing may be pending."""
        return b"".join(self.pieces_of_dump())

    def pieces_of_dump(self) -> list[bytes | memoryview]:
        """The header and the pieces of the rest, which may lie in this end's own memory."""
        if self._pending is not None:
            raise LocalError("Sender.dump: a frame is pending; commit() it or rollback() first")
        out = BitWriter()
        self.codec.write_state(self.state, self.spec, out)
        self.codec.write_memory(self.memory, self.spec, out)
        header = Header(self._hash, self.sequence, self._history, key=self._key_frame, snapshot=True)
        head, crc, *rest = Frame.seal(header, out.chunks())[0]
        return [bytes(head) + bytes(crc), *rest]

    def load(self, data: bytes | memoryview, lent: bool = False) -> None:
        """Become the end that was dumped; WireError when the bytes are damaged or another codec's.

        `lent`: nobody will change the memory of `data` any more, so that it need not be copied.
        """
        frame = Frame.parse(data)
        if frame.header.codec != self._hash:
            raise WireError("a stored sender belongs to another codec or Spec")
        if not frame.header.snapshot:
            raise WireError("these bytes are a message, not a stored sender")
        src = BitReader(frame.payload, lent=lent)
        state, memory = self.codec.read_state(self.spec, src), self.codec.read_memory(self.spec, src)
        src.finish()
        self.state, self.memory, self._pending = state, memory, None
        self.sequence, self._history, self._key_frame = frame.header.sequence, frame.header.history, frame.header.key
