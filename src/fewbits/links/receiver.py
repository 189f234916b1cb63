"""Receiver: the end of a link that decodes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fewbits.codecs import Codec, Lift, Partial, Transform, as_lift
from fewbits.codecs.flat_view import copied
from fewbits.codecs.same_memory import same_memory
from fewbits.coders.base import Coder
from fewbits.errors import DesyncError, WireError
from fewbits.links.agreed import Agreed
from fewbits.links.finite import all_finite, reach, too_large
from fewbits.links.identity import codec_hash, first_history, next_history
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec
from fewbits.wire import BitReader, BitWriter, Frame, Header, Section
from fewbits.wire.frame import MAX_SEQUENCE


class Receiver:
    """Decode frames in their order; anything else raises, and changes nothing.

    Frame n is taken after frame n - 1. A key frame starts afresh; its number must not be lower than the one expected.
    The other direction's frames carry `ack`, from which the sender learns what was accepted (`Sender.acknowledge`).

    Args:
        codec: the sender's.
        spec: the sender's: names, shapes and dtypes of the values.
        common: the sender's common randomness.

    Raises:
        WireError: the frame is damaged, malformed, of another codec, or past the link's 2^24 - 1 frames.
        DesyncError: it is not the next frame of this link: one was missed, repeated or reordered, or the ends' states
            differ. A key frame heals the link.

    >>> import torch, fewbits as fb
    >>> x = torch.arange(4.0)
    >>> sender, receiver = fb.Sender(fb.Raw(), fb.Spec.of(x), fb.Key(0)), fb.Receiver(fb.Raw(), fb.Spec.of(x))
    >>> receiver.receive(sender.send(x)), receiver.ack
    (tensor([0., 1., 2., 3.]), 1)
    >>> sender.acknowledge(receiver.ack)
    True
    """

    def __init__(self, codec: Codec | Transform | Coder, spec: Spec | TreeSpec, common: Key = Key(0)) -> None:
        self.codec: Lift = as_lift(codec, "Receiver")
        self.spec, self.common = spec, common
        self.codec.check(spec)
        self._stateless = self.codec.stateless
        self._written: list[bytes | memoryview] | None = None  # its state, where that never changes
        self.hash = codec_hash(self.codec, spec)
        self.expects = 0  # sequence number of the next frame
        self.state: Any = self.codec.init(spec)
        if self._stateless:
            self._written = self._write_state()
        self.history = self._first = first_history(self.codec, spec)
        self.agreed: Agreed | None = None  # what key frames begin with, if the sender has it, too
        self.sections: list[Section] = []  # of the last accepted frame's payload
        self._observed: dict[str, float] = {}
        self.reach = 0.0  # bound on the magnitudes in the last partial
        self.peer_ack = 0  # what the last accepted frame acknowledged

    @property
    def ack(self) -> int:
        """Frames accepted so far, modulo 2^16: what the next frame in the other direction acknowledges."""
        return self.expects % 2**16

    def receive(
        self, frame: bytes | memoryview, common: Key | None = None, check: Callable[[Any], None] | None = None
    ) -> Any:
        """The value in the next frame, in fresh memory: a tensor, or a dict of tensors.

        `check` sees the value before this end moves; when it raises, nothing has changed.
        """
        parsed, message, state, src, common = self._open(frame, common)
        if parsed.header.snapshot:
            raise WireError("this frame is a snapshot of a state, not a message; use Receiver.adopt")
        value, after = self.codec.decode(message, self.spec, state)
        if not all_finite(value):
            raise WireError("the frame decodes to values that are not finite")
        if check is not None:
            check(value)
        self._accept(parsed, message, after, src, common)
        others = state, after, np.frombuffer(parsed.payload, np.uint8)
        return copied(value) if same_memory(value, others) else value

    def receive_partial(
        self, frame: bytes | memoryview, common: Key | None = None, most: float = math.inf
    ) -> tuple[Partial, ...]:
        """The next frame decoded only as far as a sum may be taken; for `codecs.TreeTotal`.

        It may lie in the frame's memory, so use it before that memory is used again. A frame whose `reach` is more than
        `most` is refused: nothing has changed then.
        """
        parsed, message, state, src, common = self._open(frame, common)
        if parsed.header.snapshot:
            raise WireError("this frame is a snapshot of a state, not a message; use Receiver.adopt")
        partials, state = self.codec.partials(message, self.spec, state)
        found = max(map(reach, partials), default=0.0)
        if found == math.inf:
            raise WireError("the frame decodes to values that are not finite")
        if found > most:
            raise too_large(found, most)
        self.reach = found
        self._accept(parsed, message, state, src, common)
        return partials

    def adopt(self, frame: bytes | memoryview, lent: bool = False) -> None:
        """Take over the shared state in a snapshot frame; the next frame expected is the one after it.

        `lent`: nobody will change the memory of `frame` any more, so that it need not be copied.
        """
        parsed = self._parse(frame)
        if not parsed.header.snapshot:
            raise WireError("this frame is a message, not a snapshot; use Receiver.receive")
        src = BitReader(parsed.payload, lent=lent)
        with src.section("state"):
            state = self.codec.read_state(self.spec, src)
        src.finish()
        self.state, self.sections = state, src.sections
        self.expects, self.history = parsed.header.sequence, parsed.header.history

    def observe(self) -> dict[str, float]:
        """Figures of the last accepted frame that both ends can see, such as `recycled`."""
        return dict(self._observed)

    def skip(self) -> None:
        """Ask for a key frame, after a frame whose number fits and whose history does not.

        Acknowledge two frames that were never accepted. With one, the sender would take the refused frame for accepted.
        With two, it has accepted fewer frames than this end claims, so it makes a key frame with the number expected
        here. The number stays within what a stored end can name.
        """
        self.expects = min(self.expects + 2, MAX_SEQUENCE)

    def dump(self) -> bytes:
        """This end as bytes, for a StateStore."""
        return b"".join(self.pieces_of_dump())

    def pieces_of_dump(self) -> list[bytes | memoryview]:
        """The header and the pieces of the rest, which may lie in this end's own memory."""
        header = Header(self.hash, self.expects, self.history, snapshot=True)
        head, crc, *rest = Frame.seal(header, self._write_state() if self._written is None else self._written)[0]
        return [bytes(head) + bytes(crc), *rest]

    def _write_state(self) -> list[bytes | memoryview]:
        out = BitWriter()
        self.codec.write_state(self.state, self.spec, out)
        return out.chunks()

    def load(self, data: bytes | memoryview, lent: bool = False) -> None:
        """Become the end that was dumped; WireError when the bytes are damaged or another codec's. `lent`: as there."""
        self.adopt(data, lent)

    def _parse(self, frame: bytes | memoryview) -> Frame:
        parsed = Frame.parse(frame)
        if parsed.header.codec != self.hash:
            raise WireError(
                f"frame is of another codec or Spec: its hash is {parsed.header.codec:04X}, "
                f"{self.codec!r} has {self.hash:04X}"
            )
        return parsed

    def _open(self, frame: bytes | memoryview, common: Key | None) -> tuple[Frame, Any, Any, BitReader, Key]:
        """Check and read a frame, changing nothing."""
        parsed = self._parse(frame)
        header = parsed.header
        if header.sequence >= MAX_SEQUENCE:  # after it no number is left for the frame that comes next
            raise WireError(f"frame {header.sequence} is past the end of a link, which carries {MAX_SEQUENCE} frames")
        state, history = self.state, self.history
        if header.key:
            state, history = self.agreed or (self.codec.init(self.spec), self._first)
            if header.sequence < self.expects:
                raise DesyncError(f"key frame {header.sequence} is a repeat: frame {self.expects} comes next")
        elif header.sequence != self.expects:
            raise DesyncError(f"frame {self.expects} comes next on this link; got frame {header.sequence}")
        if header.history != history:
            raise DesyncError(
                f"the ends differ: the sender's history is {header.history:06X}, ours {history:06X}; "
                "a key frame heals it"
            )
        common = common or self.common.fold(header.sequence)
        src = BitReader(parsed.payload, lent=self._stateless)  # else the state keeps what was read
        message = None
        if not header.snapshot:
            message = self.codec.read(self.spec, src, common)
            src.finish()
        return parsed, message, state, src, common

    def after(self, frame: Frame) -> int:
        """The history once this frame was accepted."""
        header = frame.header
        return next_history(header.history, self.common.fold(header.sequence), header.sequence, frame.crc)

    def _accept(self, frame: Frame, message: Any, state: Any, src: BitReader, common: Key) -> None:
        self.state, self.sections = state, src.sections
        self._observed = self.codec.observe(message)
        header = frame.header
        self.history = next_history(header.history, common, header.sequence, frame.crc)
        self.expects, self.peer_ack = header.sequence + 1, header.ack
