"""What the wrappers share: one inner codec, numbers taken in float32, and tensors kept in a state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewbits.codecs.base import Codec, Transform, wide
from fewbits.codecs.chain import Chain, as_codec, from_raw_bits, to_raw_bits
from fewbits.codecs.finiteness import all_finite
from fewbits.codecs.transforms.quantize import Quantize
from fewbits.coders import Fixed, read_support, write_support
from fewbits.coders.elias import read_delta, write_delta
from fewbits.errors import LocalError, WireError
from fewbits.rng import Key
from fewbits.spec import Contract, Spec
from fewbits.wire import BitReader, BitWriter


@dataclass(frozen=True)
class Wrapper(Codec):
    """A codec around one other, on one vector."""

    codec: Codec

    forbids: ClassVar[tuple[str, ...]] = ()  # wire names of wrappers that may not stand anywhere inside this one
    because: ClassVar[str] = ""  # why

    def __post_init__(self) -> None:
        name = type(self).__name__
        object.__setattr__(self, "codec", as_codec(self.codec, name))
        for codec in nested(self.codec):
            if codec.lift:
                raise LocalError(
                    f"{name}: {codec!r} takes a dict of tensors; put it outermost, as in flat({name}(...))"
                )
            if codec.wire_name in self.forbids:
                raise LocalError(f"{name} around {type(codec).__name__}: {self.because}")

    def __repr__(self) -> str:
        defaults = {f: d.default for f, d in self.__dataclass_fields__.items()}
        shown = [f"{f}={getattr(self, f)!r}" for f in defaults if f != "codec" and getattr(self, f) != defaults[f]]
        return f"{type(self).__name__}({', '.join([repr(self.codec), *shown])})"

    @property
    def inner(self) -> Sequence[Codec]:
        return (self.codec,)

    def memory(self, spec: Spec) -> Any:
        return self.codec.memory(wide(spec))

    def write(self, message: Any, spec: Spec, out: BitWriter) -> None:
        self.codec.write(message, wide(spec), out)

    def read(self, spec: Spec, src: BitReader, common: Key) -> Any:
        return self.codec.read(wide(spec), src, common)

    def write_memory(self, memory: Any, spec: Spec, out: BitWriter) -> None:
        self.codec.write_memory(memory, wide(spec), out)

    def read_memory(self, spec: Spec, src: BitReader) -> Any:
        return self.codec.read_memory(wide(spec), src)

    def contract(self, spec: Spec) -> Contract:
        """Sizes and bounds of single messages are not promised once there is a state."""
        return Contract(portable=self.codec.contract(wide(spec)).portable)


def nested(codec: Codec) -> list[Codec]:
    """The codec and all codecs inside it."""
    return [codec, *(deep for part in codec.inner for deep in nested(part))]


def check_feedback(codec: Codec) -> None:
    """Raise LocalError when a transform inside may not have its own error fed back to it."""
    for transform, _ in _steps(codec):
        transform.check()


def check_dither(codec: Codec, owner: str, bits: int, squares: int) -> None:
    """Raise LocalError for a dither on few levels, of a vector of which no step before left anything out.

    Its noise may be longer than the vector, and so is what is added to the next one.

    `owner`: who feeds the error back; `bits`: the fewest that it bears; `squares`: it bears fewer in buckets of up to
    squares * s^2 numbers.
    """
    for step, before in _steps(codec):
        if not isinstance(step, Quantize) or step.mode != "unbiased" or any(other.sparse for other in before):
            continue
        if step.bits < bits and (isinstance(step.bucket, str) or step.bucket > squares * step.s**2):
            raise LocalError(
                f"{owner} around {step!r}: its dither on {2 * step.s + 1} levels adds as much noise to a whole "
                f"vector as there is signal, so feedback of its error diverges; use {bits} bits or more, "
                'Quantize(mode="contractive"), DeadZone, or TopK before it'
            )


def _steps(codec: Codec) -> Iterator[tuple[Transform, Sequence[Transform]]]:
    """Every transform inside, and those before it in its chain."""
    for part in nested(codec):
        if isinstance(part, Chain):
            yield from ((step, part.transforms[:place]) for place, step in enumerate(part.transforms))


def finite(x: Tensor, what: str) -> Tensor:
    """x, a sum of two finite vectors; LocalError, naming `what` was added, when it overflowed."""
    if not all_finite(x):
        raise LocalError(f"{what} sum to values beyond the largest {x.dtype}; scale the vector down")
    return x


def write_vector(x: Tensor, spec: Spec, out: BitWriter) -> None:
    """A dense vector of a state, as it is."""
    Fixed().write(to_raw_bits(x), spec, out)


def read_vector(spec: Spec, src: BitReader) -> Tensor:
    """Read back; WireError unless finite."""
    x = from_raw_bits(Fixed().read(spec, src), spec)
    if not all_finite(x):
        raise WireError("a stored vector holds values that are not finite")
    return x


def write_entries(places: Tensor, values: Tensor, spec: Spec, out: BitWriter) -> None:
    """Some entries of a vector: their count, their ascending places and their values.  # (k,) int64 and (k,)"""
    write_delta(len(places) + 1, out)
    write_support(places.numpy(), spec.numel, out)
    write_vector(values, _some(spec, len(places)), out)


def read_entries(spec: Spec, src: BitReader) -> tuple[Tensor, Tensor]:
    """Read back; the count is bounded before the places are read. WireError unless the values are finite."""
    count = read_delta(src, spec.numel + 1) - 1
    places = torch.from_numpy(read_support(count, spec.numel, src))
    return places, read_vector(_some(spec, count), src)


def _some(spec: Spec, count: int) -> Spec:
    return spec.derive(shape=(count,), segments=())


def write_optional(x: Tensor | None, spec: Spec, out: BitWriter) -> None:
    """One bit, then the vector if there is one."""
    out.write(x is not None, 1)
    if x is not None:
        write_vector(x, spec, out)


def read_optional(spec: Spec, src: BitReader) -> Tensor | None:
    """One bit, then the vector if it says so."""
    return read_vector(spec, src) if src.read(1) else None
