"""Quantize: dithered levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewbits import kernels
from fewbits.checks import check_one_of, check_whole
from fewbits.codecs.base import Keys, Transform, wide
from fewbits.codecs.transforms.scale_blocks import float32, per_option
from fewbits.codecs.transforms.scaled import Scaled
from fewbits.spec import Contract, Spec

NORMS = ("linf", "l2")
MODES = ("unbiased", "contractive")


@dataclass(frozen=True, repr=False)
class Quantize(Scaled):
    """Round every entry to one of a few levels, at random, so that it is right on average.

    Q(x)_i = c * |x|_p / s * sign(x_i) * floor(s * |x_i| / |x|_p + u), u uniform in [0, 1), s = 2^(bits-1) - 1.
    `unbiased`: c = 1 and omega = min(n / (4 s^2), sqrt(n) / s) for linf, min(n / s^2, sqrt(n) / s) for l2.
    `contractive`: c = 1 / (1 + omega) and delta = 1 / (1 + omega).

    Args:
        bits: 2..16, of a level before entropy coding; smaller: fewer bytes, more noise.
        norm: "linf" (p = infinity) or "l2".
        bucket: one scale for the "whole" vector, for each "tensor", or for so many entries.
        mode: "unbiased" or "contractive".

    Raises:
        LocalError: an option is none of these; at encoding, a value is beyond float32.

    Example:
        >>> import torch
        >>> from fewbits import Key, Quantize, Receiver, Sender, Spec
        >>> x = torch.tensor([3.0, -1.0, 0.0, 2.0])
        >>> Receiver(Quantize(bits=3), Spec.of(x)).receive(Sender(Quantize(bits=3), Spec.of(x), Key(0)).send(x))
        tensor([ 3., -1.,  0.,  2.])

    Source: QSGD, Alistarh et al. 2017 (p = 2); the contractive form, Malcom-PSGD, Campbell et al. 2023. Different here:
    the dither has 16 bits per entry, so the bias is below 2^-16 of a step; scales of buckets are bfloat16, rounded up.
    """

    wire_name: ClassVar[str] = "quantize"

    bits: int
    norm: str = "linf"
    bucket: str | int = "whole"
    mode: str = "unbiased"

    def __post_init__(self) -> None:
        check_whole("Quantize: bits", self.bits, 2, 16, hint=" (Sign() is one bit)")
        check_one_of("Quantize: norm", self.norm, NORMS)
        check_one_of("Quantize: mode", self.mode, MODES)
        per_option("Quantize", self.bucket)

    def __repr__(self) -> str:
        default = Quantize(2)
        shown = [
            f"{k}={getattr(self, k)!r}" for k in ("norm", "bucket", "mode") if getattr(self, k) != getattr(default, k)
        ]
        return f"Quantize({', '.join([f'bits={self.bits}', *shown])})"

    @property
    def s(self) -> int:
        """Levels on each side of zero."""
        return 2 ** (self.bits - 1) - 1

    def omega(self, spec: Spec) -> float:
        """Variance bound: min(n/(4 s^2), sqrt(n)/s), n the longest stretch; for l2, min(n/s^2, sqrt(n)/s).

        For linf: a level's variance is at most step^2/4 and at most step*|x_i|, and max|x| <= |x|_2.
        """
        n = self.stretches.longest(spec)
        first = n / self.s**2 if self.norm == "l2" else n / (4 * self.s**2)
        grown = (1 + 2.0**-7) ** 2 if self.stretches.narrow else 1.0  # scales rounded up to bfloat16
        return grown * min(first, math.sqrt(n) / self.s)

    def factor(self, spec: Spec) -> float:
        """The constant c."""
        return 1.0 if self.mode == "unbiased" else 1.0 / (1.0 + self.omega(spec))

    def split(self, x: Tensor, spec: Spec, keys: Keys) -> tuple[Tensor, Tensor]:
        values = float32(x, "Quantize")
        offsets = self.stretches.offsets(spec)
        measure = kernels.quantise.max_abs if self.norm == "linf" else kernels.quantise.norms
        scales = self.stretches.round(measure(values, offsets))
        levels = kernels.quantise.dither(values, offsets, scales, self.s, keys.private.fold("dither").word())
        return torch.from_numpy(scales), torch.from_numpy(levels)

    def join(self, side: Tensor, carrier: Tensor, spec: Spec) -> Tensor:
        """Levels times their stretch's step."""
        offsets = self.stretches.offsets(spec)
        values = kernels.quantise.undither(carrier.numpy(), offsets, side.numpy(), self.s, self.factor(spec))
        return torch.from_numpy(values).to(spec.torch_dtype)

    def carrier(self, side: Any, spec: Spec) -> Spec:
        s = self.s
        return spec.derive(dtype="int8" if s <= 127 else "int16", low=-s, high=s)

    def contract(self, spec: Spec) -> Contract:
        """Unbiased with omega (a contraction too when omega < 1), or a contraction with 1/(1+omega)."""
        omega, bits, bounded = self.omega(spec), self.stretches.bits(spec), wide(spec) == spec
        if self.mode == "contractive":
            return Contract(delta=1 / (1 + omega), payload_bits=bits, bounded=bounded)
        return Contract(omega=omega, delta=1 - omega if omega < 1 else None, payload_bits=bits, bounded=bounded)

    @classmethod
    def examples(cls) -> Sequence[Transform]:
        return [
            cls(bits=2),
            cls(bits=4),
            cls(bits=4, norm="l2"),
            cls(bits=4, bucket=8),
            cls(bits=8, bucket="tensor"),
            cls(bits=4, mode="contractive"),
            cls(bits=12),
        ]
