"""LookBack: recycle the last vector that was sent in full (LBGM).

Azam, Hosseinalipour, Qiu, Brinton: Recycling Model Updates in Federated Learning: Are Gradient Subspaces Low-Rank?
ICLR 2022, arXiv 2202.00280, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

from torch import Tensor

from fewbits.checks import check_flag, check_number, check_whole
from fewbits.codecs.base import Codec, Keys, Partial, wide
from fewbits.codecs.chain import chain
from fewbits.codecs.transforms.quantize import Quantize
from fewbits.codecs.transforms.raw import Raw
from fewbits.codecs.transforms.topk import TopK
from fewbits.codecs.wrappers.error_feedback import ErrorFeedback
from fewbits.codecs.wrappers.overlap import Overlap
from fewbits.codecs.wrappers.wrapper import Wrapper, finite, read_optional, write_optional
from fewbits.coders import Rans
from fewbits.errors import WireError
from fewbits.rng import Key
from fewbits.spec import Contract, Spec
from fewbits.wire import BitReader, BitWriter, Passage
from fewbits.wire.values import read_key, read_scalar, write_key, write_scalar

T = TypeVar("T")
MOST = 8  # bits a number of a message that is kept as it came, too: coding it again would take longer than a copy


@dataclass(frozen=True)
class Adaptive:
    """The theory's rule (Theorem 1): recycle iff |g/tau|^2 sin^2 <= Delta^2 = c*eta, g = x/eta over tau steps.

    Args:
        lr: eta, the local learning rate that x was made with.
        steps: tau, local steps in x.
        c: above 0; larger recycles more.

    Raises:
        LocalError: an option is out of range.

    Example:
        >>> LookBack(Raw(), threshold=Adaptive(lr=0.1, steps=5))
        LookBack(chain(Raw()), threshold=Adaptive(lr=0.1, steps=5, c=1.0))

    Source: Azam et al., ICLR 2022, Theorem 1.
    """

    wire_name: ClassVar[str] = "adaptive"

    lr: float  # eta: the local learning rate that x was made with
    steps: int  # tau: local steps in x
    c: float = 1.0  # > 0: larger recycles more

    def __post_init__(self) -> None:
        check_number("Adaptive: lr", self.lr, "(0, inf)", numpy=True)
        check_whole("Adaptive: steps", self.steps, 1, numpy=True)
        check_number("Adaptive: c", self.c, "(0, inf)", numpy=True)

    def allows(self, v2: float, sin2: float) -> bool:
        """Whether a vector with |v|^2 = v2 may be recycled."""
        return v2 / (self.lr * self.steps) ** 2 * sin2 <= self.c * self.lr


class _Full(NamedTuple):
    message: Any
    common: Key


class Full(_Full):
    """The whole vector, by the inner codec, and the common key (not sent) that it was made with."""

    passage: Passage | None = None  # the message as it came; a state repeats it


class Recycled(NamedTuple):
    """rho times the look-back vector."""

    rho: float


class LookBackState(NamedTuple):
    """The last full message, and the inner state it was decoded with.

    The look-back vector and the inner state after it both follow from these, and they are as small as what was sent.
    """

    last: Full | None
    before: Any


class LookBackMemory(NamedTuple):
    """The inner codec's memory, the look-back residual (if fed back), and the last |v|^2 * sin^2."""

    inner: Any
    residual: Tensor | None
    error: float


@dataclass(frozen=True, repr=False)
class LookBack(Wrapper):
    """Send one number when the vector points where the last full one did (LBGM); else send the vector in full.

    v = C(u), the decoded output of the inner codec, and l, the last v that was sent in full:

        sin^2(v, l) <= threshold:  send rho = <v, l> / |l|^2;  the receiver has rho * l
        else, or without an l != 0:  send v;  l := v

    The inner codec compresses first, and the decision is about what it gives ("plug and play"). rho may be negative.
    One decision is made for the whole vector; `each(LookBack(...))` makes one per tensor, as the official code does.

    Args:
        codec: C, any codec of one vector.
        threshold: delta in [0, 1], without unit; larger recycles more, 0 never (then this is the inner codec). Or the
            theory's rule, `Adaptive(lr, steps, c)`.
        feedback: add u - rho * l of recycled rounds to the next vector, until a full send.

    Raises:
        LocalError: the threshold is outside [0, 1]; the inner codec holds a last vector already (`LookBack`,
            `Predict`).

    Example:
        >>> import torch
        >>> from fewbits import Key, LookBack, Raw, Sender, Spec
        >>> sender = Sender(LookBack(Raw(), threshold=0.2), Spec((1000,)), Key(0))
        >>> len(sender.send(torch.ones(1000))), sender.commit()
        (4017, None)
        >>> len(sender.send(2 * torch.ones(1000))), sender.commit()  # one bit, and rho = 2
        (21, None)

    Source: Azam, Hosseinalipour, Qiu, Brinton, ICLR 2022, Algorithm 1. Different here: `feedback` is our addition; the
    paper drops what recycling misses.
    """

    wire_name: ClassVar[str] = "look_back"

    threshold: float | Adaptive = 0.2
    feedback: bool = False

    forbids: ClassVar[tuple[str, ...]] = ("look_back", "predict")
    because: ClassVar[str] = "both would keep a last vector of their own; use one of them"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.threshold, Adaptive):
            check_number("LookBack: threshold", self.threshold, "[0, 1]")
            object.__setattr__(self, "threshold", float(self.threshold))
        check_flag("LookBack: feedback", self.feedback)

    @property
    def stateless(self) -> bool:
        return False

    def init(self, spec: Spec) -> LookBackState:
        return LookBackState(None, self.codec.init(wide(spec)))

    def memory(self, spec: Spec) -> LookBackMemory:
        return LookBackMemory(self.codec.memory(wide(spec)), None, 0.0)

    def look_back(self, spec: Spec, state: LookBackState) -> tuple[Tensor | None, Any]:
        """(l or None, the inner state now)."""
        if state.last is None:
            return None, state.before
        return self.codec.decode(state.last.message, wide(spec), state.before)

    def encode(
        self, x: Tensor, spec: Spec, state: LookBackState, memory: LookBackMemory, keys: Keys
    ) -> tuple[Full | Recycled, LookBackMemory]:
        x = x.to(wide(spec).torch_dtype)
        l, inner_state = self.look_back(spec, state)  # noqa: E741
        u = x if memory.residual is None else finite(x + memory.residual, "LookBack: the vector and the residual")
        message, inner = self.codec.encode(u, wide(spec), inner_state, memory.inner, keys)
        full = Full(message, keys.common), LookBackMemory(inner, None, 0.0)
        if l is None:  # nothing to compare with
            return full
        overlap = Overlap.of(self.codec.decode(message, wide(spec), inner_state)[0], l)
        rho = overlap.rho
        if rho is None or not self._recycles(overlap.xx, overlap.sin2):
            return full
        residual = u - l * rho if self.feedback else None
        return Recycled(rho), LookBackMemory(inner, residual, overlap.xx * overlap.sin2)

    def _recycles(self, v2: float, sin2: float) -> bool:
        if isinstance(self.threshold, Adaptive):
            return self.threshold.allows(v2, sin2)
        return self.threshold > 0 and sin2 <= self.threshold

    def decode(self, message: Full | Recycled, spec: Spec, state: LookBackState) -> tuple[Tensor, LookBackState]:
        l, inner_state = self.look_back(spec, state)  # noqa: E741
        if isinstance(message, Recycled):
            return (_known(l) * message.rho).to(spec.torch_dtype), state
        v, _ = self.codec.decode(message.message, wide(spec), inner_state)
        return v.to(spec.torch_dtype), LookBackState(message, inner_state)

    def partial(self, message: Full | Recycled, spec: Spec, state: LookBackState) -> tuple[Partial, LookBackState]:
        """Recycled: rho times the partial of l, which is never expanded."""
        if isinstance(message, Recycled):
            part, _ = self.codec.partial(_known(state.last).message, wide(spec), state.before)
            return Partial(part.values, part.support, part.scale * message.rho, part.side), state
        after = self.follow(message, spec, state)
        return self.codec.partial(message.message, wide(spec), after.before)[0], after

    def follow(self, message: Full | Recycled, spec: Spec, state: LookBackState) -> LookBackState:
        if isinstance(message, Recycled):
            return state
        return LookBackState(message, state.before if self.codec.stateless else self.look_back(spec, state)[1])

    def contract(self, spec: Spec) -> Contract:
        """rho * l is finite, too: a larger rho is not sent."""
        inner = self.codec.contract(wide(spec))
        return Contract(portable=inner.portable, bounded=inner.bounded and wide(spec) == spec)

    def complete(self, total: Tensor, side: Any, spec: Spec) -> Tensor:
        return self.codec.complete(total, side, wide(spec))

    def write(self, message: Full | Recycled, spec: Spec, out: BitWriter) -> None:
        """One bit: recycled; then rho as float32, or the inner message."""
        with out.section("recycled"):
            out.write(isinstance(message, Recycled), 1)
            if isinstance(message, Recycled):
                write_scalar(message.rho, out)
        if isinstance(message, Full):
            start = out.bits
            self.codec.write(message.message, wide(spec), out)
            if out.bits - start <= MOST * spec.numel:
                message.passage = out.passage(start)

    def read(self, spec: Spec, src: BitReader, common: Key) -> Full | Recycled:
        with src.section("recycled"):
            if src.read(1):
                return Recycled(read_scalar(src))
        return self._read_full(spec, src, common)

    def _read_full(self, spec: Spec, src: BitReader, common: Key) -> Full:
        start = src.bits
        message = Full(self.codec.read(wide(spec), src, common), common)
        if src.bits - start <= MOST * spec.numel:
            message.passage = src.passage(start)
        return message

    def write_state(self, state: LookBackState, spec: Spec, out: BitWriter) -> None:
        """One bit: is there an l; if so, the key and the message it came in; then the inner state before it."""
        out.write(state.last is not None, 1)
        if state.last is not None:
            write_key(state.last.common, out)
            if state.last.passage is None:
                self.codec.write(state.last.message, wide(spec), out)
            else:
                out.repeat(state.last.passage)
        self.codec.write_state(state.before, wide(spec), out)

    def read_state(self, spec: Spec, src: BitReader) -> LookBackState:
        last = None
        if src.read(1):
            last = self._read_full(spec, src, read_key(src))
        return LookBackState(last, self.codec.read_state(wide(spec), src))

    def write_memory(self, memory: LookBackMemory, spec: Spec, out: BitWriter) -> None:
        """The residual, then the inner memory. The last error is only for reports."""
        write_optional(memory.residual, wide(spec), out)
        self.codec.write_memory(memory.inner, wide(spec), out)

    def read_memory(self, spec: Spec, src: BitReader) -> LookBackMemory:
        residual = read_optional(wide(spec), src)
        return LookBackMemory(self.codec.read_memory(wide(spec), src), residual, 0.0)

    def observe(self, message: Full | Recycled, memory: LookBackMemory | None = None) -> dict[str, float]:
        """recycled: 0 or 1; at the sender, floor: |v|^2 sin^2 of what was recycled."""
        seen = {"recycled": float(isinstance(message, Recycled))}
        return seen if memory is None else seen | {"floor": memory.error}

    @classmethod
    def examples(cls) -> Sequence[Codec]:
        stack = chain(TopK(0.2), Quantize(bits=4), Rans())
        return [
            cls(chain(Raw()), threshold=0.9),
            cls(stack, threshold=0.9),
            cls(ErrorFeedback(stack), threshold=0.9),
            cls(stack, threshold=0.9, feedback=True),
            cls(chain(Raw()), threshold=Adaptive(lr=0.1, steps=5)),
        ]


def _known(l: T | None) -> T:  # noqa: E741
    if l is None:
        raise WireError("LookBack: the frame refers to a look-back vector, and there is none")
    return l
