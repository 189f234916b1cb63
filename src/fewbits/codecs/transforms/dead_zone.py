"""DeadZone: the nearest of a few levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fewbits import kernels
from fewbits.checks import check_number, check_whole
from fewbits.codecs.base import Keys, Transform, wide
from fewbits.codecs.transforms.scale_blocks import float32, per_option
from fewbits.codecs.transforms.scaled import Scaled
from fewbits.spec import Contract, Spec


@dataclass(frozen=True, repr=False)
class DeadZone(Scaled):
    """Round every entry to the nearest of a few levels; a contraction, at any number of bits.

    q_i = sign(x_i) min(s, floor(|x_i| / (step mean|x|) + 1/2)), and C(x) = g q with g = <x, q> / <q, q>, the best of
    all multiples of q: |C(x) - x|^2 = |x|^2 - <x, q>^2 / |q|^2. Nothing is random, and C(x) is not right on average, so
    it needs error feedback on the way up. With `levels=1` it is ternary: entries below step/2 become zero.

    Args:
        levels: s, of each sign, 1..127; larger: a larger range.
        step: distance of the levels, in mean magnitudes, above 0; smaller: more bytes, less noise.
        bucket: one scale for the "whole" vector, for each "tensor", or for so many entries.

    Raises:
        LocalError: an option is out of range; at encoding, a value is beyond float32.

    Example:
        >>> import torch
        >>> from fewbits import Key, Receiver, Sender, Spec
        >>> from fewbits.codecs import DeadZone
        >>> x = torch.tensor([0.5, -3.0, 0.0, 2.0])
        >>> Receiver(DeadZone(), Spec.of(x)).receive(Sender(DeadZone(), Spec.of(x), Key(0)).send(x))
        tensor([ 0.0000, -2.5000,  0.0000,  2.5000])

    Source: ternary weights, Li, Zhang, Liu 2016 (arXiv 1605.04711); uniform levels behind a dead zone, Sullivan 1996.
    Different here: the gain fits all levels at once, so every such message is a contraction.
    """

    wire_name: ClassVar[str] = "dead_zone"

    levels: int = 1
    step: float = 2.0
    bucket: str | int = "whole"

    def __post_init__(self) -> None:
        check_whole("DeadZone: levels", self.levels, 1, 127)
        check_number("DeadZone: step", self.step, "(0, inf)")
        object.__setattr__(self, "step", float(self.step))
        per_option("DeadZone", self.bucket)

    def __repr__(self) -> str:
        shown = [f"levels={self.levels}", f"step={self.step:g}"]
        return f"DeadZone({', '.join(shown if self.bucket == 'whole' else [*shown, f'bucket={self.bucket!r}'])})"

    def split(self, x: Tensor, spec: Spec, keys: Keys) -> tuple[Tensor, Tensor]:
        values, offsets = float32(x, "DeadZone"), self.stretches.offsets(spec)
        steps = np.float32(self.step) * kernels.quantise.mean_abs(values, offsets)
        levels = kernels.nearest.nearest(values, offsets, steps, self.levels)
        gains = self.stretches.round(kernels.nearest.gains(values, levels, offsets))
        return torch.from_numpy(gains), torch.from_numpy(levels)

    def join(self, side: Tensor, carrier: Tensor, spec: Spec) -> Tensor:
        """Levels times their stretch's gain."""
        values = kernels.quantise.undither(carrier.numpy(), self.stretches.offsets(spec), side.numpy(), 1, 1.0)
        return torch.from_numpy(values).to(spec.torch_dtype)

    def carrier(self, side: Any, spec: Spec) -> Spec:
        return spec.derive(dtype="int8", low=-self.levels, high=self.levels)

    def contract(self, spec: Spec) -> Contract:
        """The largest entry alone is half a step or more if step <= 2: delta >= 1/n. Else no bound is promised."""
        n = max(1, self.stretches.longest(spec))
        promised = self.step <= 2 and not self.stretches.narrow
        delta, bounded = 1 / n if promised else None, self.levels == 1 and wide(spec) == spec
        return Contract(delta=delta, payload_bits=self.stretches.bits(spec), bounded=bounded)

    @classmethod
    def examples(cls) -> Sequence[Transform]:
        return [cls(), cls(levels=3, step=1.0), cls(levels=7, step=0.5, bucket="tensor"), cls(levels=1, bucket=8)]
