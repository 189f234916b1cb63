"""LookBack: recycle the last vector that was sent in full (LBGM).

Azam, Hosseinalipour, Qiu, Brinton: Recycling Model Updates in Federated Learning: Are Gradient Subspaces Low-Rank?
ICLR 2022, arXiv 2202.00280, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from fewbits.codecs.base import Codec, Keys, Partial, wide
from fewbits.codecs.chain import chain
from fewbits.codecs.transforms.quantize import Quantize
from fewbits.codecs.transforms.raw import Raw
from fewbits.codecs.transforms.topk import TopK
from fewbits.codecs.wrappers.error_feedback import ErrorFeedback
from fewbits.codecs.wrappers.overlap import Overlap, share
from fewbits.codecs.wrappers.wrapper import Wrapper, finite, read_optional, write_optional
from fewbits.coders import Rans
from fewbits.errors import LocalError, WireError
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.wire import BitReader, BitWriter
from fewbits.wire.values import read_key, read_scalar, write_key, write_scalar

T = TypeVar("T")
GRANULARITIES = ("model", "tensor")


@dataclass(frozen=True)
class Adaptive:
    """The theory's rule (Theorem 1): recycle iff |g/tau|^2 sin^2 <= Delta^2 = c*eta, g = x/eta over tau steps."""

    lr: float  # eta: the local learning rate that x was made with
    steps: int  # tau: local steps in x
    c: float = 1.0  # > 0: larger recycles more

    def __post_init__(self) -> None:
        if not (self.lr > 0 and self.steps >= 1 and self.c > 0):
            raise LocalError(
                f"Adaptive: lr and c must be > 0 and steps >= 1; got lr={self.lr}, steps={self.steps}, c={self.c}"
            )

    def allows(self, v2: float, sin2: float) -> bool:
        """Whether a vector with |v|^2 = v2 may be recycled."""
        return v2 / (self.lr * self.steps) ** 2 * sin2 <= self.c * self.lr


class Full(NamedTuple):
    """The whole vector, by the inner codec, and the common key (not sent) that it was made with."""

    message: Any
    common: Key


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
    """Send the scalar rho = <v, l>/|l|^2 when v points where l does: sin^2(v, l) <= threshold; else send v in full.

    v is the decoded output of the inner codec ("plug and play": compress first, then look back on the compressed
    vector) and l the last v sent in full. Full when there is no l, or it is zero. rho may be negative. threshold = 0
    never recycles, so it equals the inner codec. `granularity="tensor"` decides for each tensor (the official code);
    the inner codec then works on each tensor by itself. `feedback` adds u - rho*l of recycled rounds to the next
    vector, until a full send (our option; the paper drops it).
    """

    threshold: float | Adaptive = 0.2  # delta in [0, 1]: larger recycles more
    granularity: str = "model"  # "model" (the paper) or "tensor" (its code)
    feedback: bool = False  # keep what recycling missed for the next round

    forbids: ClassVar[tuple[str, ...]] = ("LookBack", "Predict")
    because: ClassVar[str] = "both would keep a last vector of their own; use one of them"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.threshold, Adaptive):
            share("LookBack", "threshold", self.threshold)
            object.__setattr__(self, "threshold", float(self.threshold))
        if self.granularity not in GRANULARITIES:
            raise LocalError(
                f"LookBack: granularity must be one of {', '.join(GRANULARITIES)}; got {self.granularity!r}"
            )

    @property
    def stateless(self) -> bool:
        """No: a scalar means nothing without l."""
        return False

    def parts(self, spec: Spec) -> list[Spec]:
        """The vectors that are decided about one by one."""
        return [wide(spec)] if self.granularity == "model" else wide(spec).split()

    def init(self, spec: Spec) -> tuple[LookBackState, ...]:
        """No look-back vector."""
        return tuple(LookBackState(None, self.codec.init(part)) for part in self.parts(spec))

    def memory(self, spec: Spec) -> tuple[LookBackMemory, ...]:
        """The inner codec's, no residual."""
        return tuple(LookBackMemory(self.codec.memory(part), None, 0.0) for part in self.parts(spec))

    def look_back(self, spec: Spec, state: LookBackState) -> tuple[Tensor | None, Any]:
        """(l or None, the inner state now), for one part."""
        if state.last is None:
            return None, state.before
        return self.codec.decode(state.last.message, spec, state.before)

    def encode(self, x: Tensor, spec: Spec, state: Any, memory: Any, keys: Keys) -> tuple[Any, Any]:
        """One decision per part."""
        parts, messages, memories = self.parts(spec), [], []
        for i, (part, piece) in enumerate(zip(parts, _pieces(x, parts), strict=True)):
            own = keys if len(parts) == 1 else Keys(keys.private.fold(i), keys.common.fold(i))
            message, after = self._encode(piece.to(part.torch_dtype), part, state[i], memory[i], own)
            messages.append(message)
            memories.append(after)
        return tuple(messages), tuple(memories)

    def _encode(
        self, x: Tensor, spec: Spec, state: LookBackState, memory: LookBackMemory, keys: Keys
    ) -> tuple[Full | Recycled, LookBackMemory]:
        l, inner_state = self.look_back(spec, state)  # noqa: E741
        u = x if memory.residual is None else finite(x + memory.residual, "LookBack: the vector and the residual")
        message, inner = self.codec.encode(u, spec, inner_state, memory.inner, keys)
        v, _ = self.codec.decode(message, spec, inner_state)
        overlap = Overlap.of(v, l) if l is not None else None
        rho = overlap.rho if overlap else None
        if l is None or overlap is None or rho is None or not self._recycles(overlap.xx, overlap.sin2):
            return Full(message, keys.common), LookBackMemory(inner, None, 0.0)
        residual = u - l * rho if self.feedback else None
        return Recycled(rho), LookBackMemory(inner, residual, overlap.xx * overlap.sin2)

    def _recycles(self, v2: float, sin2: float) -> bool:
        if isinstance(self.threshold, Adaptive):
            return self.threshold.allows(v2, sin2)
        return self.threshold > 0 and sin2 <= self.threshold

    def decode(self, message: Any, spec: Spec, state: Any) -> tuple[Tensor, Any]:
        """rho*l, or the vector, which is the new l."""
        decoded = [self._decode(*each) for each in zip(message, self.parts(spec), state, strict=True)]
        x = decoded[0][0] if len(decoded) == 1 else torch.cat([x for x, _ in decoded] or [torch.zeros(0)])
        return x.to(spec.torch_dtype), tuple(new for _, new in decoded)

    def _decode(self, message: Full | Recycled, spec: Spec, state: LookBackState) -> tuple[Tensor, LookBackState]:
        l, inner_state = self.look_back(spec, state)  # noqa: E741
        if isinstance(message, Recycled):
            return _known(l) * message.rho, state
        v, _ = self.codec.decode(message.message, spec, inner_state)
        return v, LookBackState(message, inner_state)

    def partial(self, message: Any, spec: Spec, state: Any) -> tuple[Partial, Any]:
        """One part: rho times the partial of l, never expanded; several: decode."""
        if len(message) != 1:
            return super().partial(message, spec, state)
        (own,), (kept,) = message, state
        if isinstance(own, Recycled):
            part, _ = self.codec.partial(_known(kept.last).message, wide(spec), kept.before)
            return Partial(part.values, part.support, part.scale * own.rho, part.side), state
        _, inner_state = self.look_back(wide(spec), kept) if not self.codec.stateless else (None, kept.before)
        part, _ = self.codec.partial(own.message, wide(spec), inner_state)
        return part, (LookBackState(own, inner_state),)

    def complete(self, total: Tensor, side: Any, spec: Spec) -> Tensor:
        """As the inner codec, for one part."""
        return total if len(self.parts(spec)) != 1 else self.codec.complete(total, side, wide(spec))

    def write(self, message: Any, spec: Spec, out: BitWriter) -> None:
        """One bit per part, then all scalars as float32, then the full vectors."""
        with out.section("recycled"):
            for part in message:
                out.write(isinstance(part, Recycled), 1)
            for part in message:
                if isinstance(part, Recycled):
                    write_scalar(part.rho, out)
        for part, own in zip(message, self.parts(spec), strict=True):
            if isinstance(part, Full):
                self.codec.write(part.message, own, out)

    def read(self, spec: Spec, src: BitReader, common: Key) -> tuple[Full | Recycled, ...]:
        """Read back what was written."""
        parts = self.parts(spec)
        with src.section("recycled"):
            tags = [src.read(1) for _ in parts]
            scalars = iter([read_scalar(src) for tag in tags if tag])
        keys = [common if len(parts) == 1 else common.fold(i) for i in range(len(parts))]
        return tuple(
            Recycled(next(scalars)) if tag else Full(self.codec.read(part, src, key), key)
            for tag, part, key in zip(tags, parts, keys, strict=True)
        )

    def write_state(self, state: Any, spec: Spec, out: BitWriter) -> None:
        """Per part: whether there is a last full message, its common key and itself, and the inner state before it."""
        for own, part in zip(state, self.parts(spec), strict=True):
            out.write(own.last is not None, 1)
            if own.last is not None:
                write_key(own.last.common, out)
                self.codec.write(own.last.message, part, out)
            self.codec.write_state(own.before, part, out)

    def read_state(self, spec: Spec, src: BitReader) -> tuple[LookBackState, ...]:
        """Read back what was written."""
        found = []
        for part in self.parts(spec):
            last = None
            if src.read(1):
                common = read_key(src)
                last = Full(self.codec.read(part, src, common), common)
            found.append(LookBackState(last, self.codec.read_state(part, src)))
        return tuple(found)

    def write_memory(self, memory: Any, spec: Spec, out: BitWriter) -> None:
        """Per part: the residual, and the inner codec's. The last error is only for reports."""
        for own, part in zip(memory, self.parts(spec), strict=True):
            write_optional(own.residual, part, out)
            self.codec.write_memory(own.inner, part, out)

    def read_memory(self, spec: Spec, src: BitReader) -> tuple[LookBackMemory, ...]:
        """Read back what was written."""
        found = []
        for part in self.parts(spec):
            residual = read_optional(part, src)
            found.append(LookBackMemory(self.codec.read_memory(part, src), residual, 0.0))
        return tuple(found)

    def observe(self, message: Any, memory: Any | None = None) -> dict[str, float]:
        """recycled: the share of parts; at the sender, floor: the largest |v|^2 sin^2 that was recycled."""
        seen = {"recycled": sum(isinstance(part, Recycled) for part in message) / max(1, len(message))}
        if memory is None:
            return seen
        return seen | {"floor": max((own.error for own in memory), default=0.0)}

    @classmethod
    def examples(cls) -> Sequence[Codec]:
        """The paper's, its code's, on a selection, with error feedback inside, with residual feedback."""
        stack = chain(TopK(0.2), Quantize(bits=4), Rans())
        return [
            cls(chain(Raw()), threshold=0.9),
            cls(chain(Raw()), threshold=0.9, granularity="tensor"),
            cls(stack, threshold=0.9),
            cls(ErrorFeedback(stack), threshold=0.9),
            cls(stack, threshold=0.9, feedback=True),
            cls(chain(Raw()), threshold=Adaptive(lr=0.1, steps=5)),
        ]


def _pieces(x: Tensor, parts: list[Spec]) -> Sequence[Tensor]:
    return [x] if len(parts) == 1 else torch.split(x, [part.numel for part in parts])


def _known(l: T | None) -> T:  # noqa: E741
    if l is None:
        raise WireError("LookBack: the frame refers to a look-back vector, and there is none")
    return l
