"""chain: transforms from left to right, then one lossless coder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewbits.codecs.base import Codec, Keys, Partial, Transform
from fewbits.codecs.transforms.dct import DCT
from fewbits.codecs.transforms.quantize import Quantize
from fewbits.codecs.transforms.randk import RandK
from fewbits.codecs.transforms.raw import Raw
from fewbits.codecs.transforms.rotate import Rotate
from fewbits.codecs.transforms.sign import Sign
from fewbits.codecs.transforms.threshold import Threshold
from fewbits.codecs.transforms.topk import TopK
from fewbits.coders import Elias, Fixed, Golomb, Rans
from fewbits.coders.base import Coder
from fewbits.errors import LocalError
from fewbits.rng import Key
from fewbits.spec import Contract, Spec
from fewbits.wire import BitReader, BitWriter


class ChainMessage(NamedTuple):
    """What one vector became."""

    sides: tuple[Any, ...]  # one per transform
    carrier: Tensor  # what the last transform left


@dataclass(frozen=True)
class Chain(Codec):
    """Transforms in a row, then a coder: a codec without state, which `chain` builds.

    Args:
        transforms: from left to right as a vector meets them.
        coder: writes what the last transform leaves.

    Raises:
        LocalError: a coder of levels gets floats, or a transform of floats gets levels.

    Example:
        >>> chain(TopK(0.01), Rans()).transforms
        (TopK(fraction=0.01),)
    """

    wire_name: ClassVar[str] = "chain"

    transforms: tuple[Transform, ...]
    coder: Coder

    def __post_init__(self) -> None:
        for before, after in zip(self.transforms, self.transforms[1:], strict=False):
            if before.quantises:
                raise LocalError(
                    f"chain: {before!r} gives integer levels, but {after!r} after it needs floats; "
                    "put it before, and end with a coder"
                )
        if not self.coder.floats and not (self.transforms and self.transforms[-1].quantises):
            raise LocalError(f"chain: {self.coder!r} codes integer levels; put Quantize or Sign before it")

    def __repr__(self) -> str:
        parts = [*self.transforms, *([] if self.coder == Fixed() and self.transforms else [self.coder])]
        return f"chain({', '.join(map(repr, parts))})"

    def init(self, spec: Spec) -> tuple[()]:
        return ()

    def memory(self, spec: Spec) -> tuple[()]:
        return ()

    def encode(self, x: Tensor, spec: Spec, state: Any, memory: Any, keys: Keys) -> tuple[ChainMessage, tuple[()]]:
        sides = []
        for transform in self.transforms:
            side, x = transform.split(x, spec, keys)
            sides.append(side)
            spec = transform.carrier(side, spec)
        return ChainMessage(tuple(sides), x), ()

    @property
    def sparse(self) -> bool:
        """True when a message is some entries of the vector: `partial` gives their support."""
        return bool(self.transforms) and self.transforms[0].sparse and not self.linear_prefix

    def specs(self, sides: Sequence[Any], spec: Spec) -> list[Spec]:
        """The Spec before each transform, and last the coder's; sides of None stand for the largest."""
        specs = [spec]
        for transform, side in zip(self.transforms, sides, strict=True):
            specs.append(transform.carrier(side, specs[-1]))
        return specs

    def decode(self, message: ChainMessage, spec: Spec, state: Any) -> tuple[Tensor, tuple[()]]:
        return self._join(message, spec, 0), ()

    def _join(self, message: ChainMessage, spec: Spec, first: int) -> Tensor:
        specs, x = self.specs(message.sides, spec), message.carrier
        for i in reversed(range(first, len(self.transforms))):
            x = self.transforms[i].join(message.sides[i], x, specs[i])
        return x

    def write(self, message: ChainMessage, spec: Spec, out: BitWriter) -> None:
        """Sides in order, then the carrier by the coder; each is a section."""
        specs = self.specs(message.sides, spec)
        for transform, side, before in zip(self.transforms, message.sides, specs, strict=False):
            with out.section(type(transform).__name__):
                transform.write(side, before, out)
        with out.section(type(self.coder).__name__):
            self.coder.write(to_raw_bits(message.carrier), specs[-1], out)

    def read(self, spec: Spec, src: BitReader, common: Key) -> ChainMessage:
        """Sides in order, each of which tells the next Spec, then the carrier."""
        sides = []
        for transform in self.transforms:
            with src.section(type(transform).__name__):
                sides.append(transform.read(spec, src, common))
            spec = transform.carrier(sides[-1], spec)
        with src.section(type(self.coder).__name__):
            values = self.coder.read(spec, src)
        return ChainMessage(tuple(sides), from_raw_bits(values, spec))

    def write_state(self, state: Any, spec: Spec, out: BitWriter) -> None:
        pass

    def read_state(self, spec: Spec, src: BitReader) -> tuple[()]:
        return ()

    def write_memory(self, memory: Any, spec: Spec, out: BitWriter) -> None:
        pass

    def read_memory(self, spec: Spec, src: BitReader) -> tuple[()]:
        return ()

    def partial(self, message: ChainMessage, spec: Spec, state: Any) -> tuple[Partial, tuple[()]]:
        """Stop before the linear transforms at the front, or before a sparse one's scatter."""
        first = len(self.linear_prefix)
        if first:
            return Partial(self._join(message, spec, first), side=message.sides[:first]), ()
        if self.sparse:
            return Partial(self._join(message, spec, 1), support=message.sides[0]), ()
        return Partial(self._join(message, spec, 0)), ()

    def complete(self, total: Tensor, side: Any, spec: Spec) -> Tensor:
        """Join a sum of carriers through the linear transforms at the front."""
        if not self.linear_prefix:
            return total
        return Chain(self.linear_prefix, Fixed())._join(ChainMessage(side, total), spec, 0)

    @property
    def linear_prefix(self) -> tuple[Transform, ...]:
        """The linear transforms that the chain begins with: sums are taken of what they leave."""
        return tuple(takewhile(lambda transform: transform.linear, self.transforms))

    def contract(self, spec: Spec) -> Contract:
        """Compose the transforms' promises.

        Unbiased after unbiased: 1 + omega multiplies. Orthogonal projections before the last transform:
        |x - C(x)|^2 = |x - Px|^2 + |Px - C(Px)|^2, so delta multiplies. Otherwise no bound is claimed.
        """
        specs = self.specs([None] * len(self.transforms), spec)
        parts = [t.contract(s) for t, s in zip(self.transforms, specs, strict=False)]
        lossless = all(c.lossless for c in parts)
        omegas = [c.omega for c in parts]
        omega = float(np.prod([1 + w for w in omegas if w is not None])) - 1 if None not in omegas else None
        orthogonal = all(t.projection or c.lossless for t, c in zip(self.transforms[:-1], parts, strict=False))
        deltas = [c.delta for c in parts]
        delta = float(np.prod([d for d in deltas if d is not None])) if orthogonal and None not in deltas else None
        bits = [c.payload_bits for c in parts] + [self.coder.payload_bits(specs[-1])]
        # Blocks of a payload begin on whole bytes, so only the last may be counted without its fill.
        fixed = sum(-(-b // 8) * 8 for b in bits[:-1] if b) + (bits[-1] or 0) if None not in bits else None
        return Contract(
            lossless=lossless,
            omega=omega,
            delta=delta,
            payload_bits=fixed,
            portable=all(c.portable for c in parts),
            linear=bool(self.linear_prefix),
            bounded=all(c.bounded or c.lossless for c in parts),
        )

    @classmethod
    def examples(cls) -> Sequence[Codec]:
        return [
            chain(Raw()),
            chain(Raw("fp16")),
            chain(Sign()),
            chain(Quantize(bits=4), Rans()),
            chain(Quantize(bits=2), Golomb()),
            chain(Quantize(bits=3, bucket=16), Elias()),
            chain(TopK(0.1)),
            chain(TopK(0.1), Quantize(bits=4), Rans()),
            chain(TopK(0.2), Sign()),
            chain(RandK(0.25), Quantize(bits=8, bucket=8)),
            chain(Threshold(0.5), Quantize(bits=4), Rans()),
            chain(Rotate(), Sign(sizes=2, mode="unbiased"), Rans()),
            chain(DCT(8), TopK(0.25, chunk=8), Sign(sizes=2)),
        ]


def chain(*parts: Transform | Coder) -> Chain:
    """Apply transforms from left to right, then one coder.

    The side information of each transform is written in order, then what the last one leaves, by the coder.

    Args:
        parts: transforms, then a coder; without one, values are packed by `Fixed`.

    Raises:
        LocalError: a part is neither transform nor coder; a coder is not last; a coder of levels gets floats, or a
            transform of floats gets levels.

    Example:
        >>> chain(TopK(0.01), Quantize(bits=4), Rans())
        chain(TopK(fraction=0.01), Quantize(bits=4), Rans())
    """
    for i, part in enumerate(parts):
        if isinstance(part, Codec):
            raise LocalError(
                f"chain: {part!r} is a whole codec; chain takes transforms and a coder. Wrap the chain in it"
            )
        if not isinstance(part, Transform | Coder):
            raise LocalError(
                f"chain: part {i} must be a transform or a coder, such as TopK(0.01) or Rans(); got {part!r}"
            )
        if isinstance(part, Coder) and i < len(parts) - 1:
            raise LocalError(f"chain: the coder {part!r} must come last, but {parts[i + 1]!r} follows it")
    transforms = tuple(part for part in parts if isinstance(part, Transform))
    last = parts[-1] if parts else None
    return Chain(transforms, last if isinstance(last, Coder) else Fixed())


def as_codec(part: Codec | Transform | Coder, owner: str) -> Codec:
    """A codec as it is; a transform or coder as a chain of one; anything else is refused in `owner`'s name."""
    if isinstance(part, Codec):
        return part
    if isinstance(part, Transform | Coder):
        return chain(part)
    raise LocalError(f"{owner}: expected a codec, such as chain(TopK(0.01), Quantize(bits=4), Rans()); got {part!r}")


_WORDS = {16: np.uint16, 32: np.uint32, 64: np.uint64}


def to_raw_bits(x: Tensor) -> np.ndarray:
    """A carrier as coders see it: integers as they are, floats as words."""
    x = x.detach().contiguous().cpu()
    if not x.dtype.is_floating_point:
        return x.numpy()
    bits = 8 * x.element_size()
    return x.view({16: torch.int16, 32: torch.int32, 64: torch.int64}[bits]).numpy().view(_WORDS[bits])


def from_raw_bits(values: np.ndarray, spec: Spec) -> Tensor:
    """Back from `to_raw_bits`; whether floats are finite, the receiver checks once, at the end.

    In memory of its own, unless what was read is lent (see `BitReader`).
    """
    values = values if values.flags.carray else values.copy()  # contiguous, aligned and not read-only
    if spec.integer:
        return torch.from_numpy(values)
    return torch.from_numpy(values.view({16: np.int16, 32: np.int32, 64: np.int64}[spec.bits])).view(spec.torch_dtype)


__all__ = ["Chain", "ChainMessage", "as_codec", "chain"]
