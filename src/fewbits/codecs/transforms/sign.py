"""Sign: one bit per entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fewbits import kernels
from fewbits.codecs.base import Keys, Transform
from fewbits.codecs.transforms.scale_blocks import ScaleBlocks, float32, per_option
from fewbits.rng import Key
from fewbits.spec import Contract, Spec
from fewbits.wire import BitReader, BitWriter


@dataclass(frozen=True, repr=False)
class Sign(Transform):
    """C(x) = mean|x| * sign(x): scaled signSGD (Karimireddy et al. 2019, EF-SIGNSGD, Remark 7).

    A contraction with delta = |x|_1^2 / (n |x|_2^2) >= 1/n, n the longest stretch. sign(0) is +1, and sign(-0.0) too,
    so that one bit is enough.
    """

    wire_name: ClassVar[str] = "sign"

    bucket: str | int = "whole"  # one scale per "whole" vector, per "tensor", or per so many elements

    quantises: ClassVar[bool] = True

    def __post_init__(self) -> None:
        per_option("Sign", self.bucket)

    def __repr__(self) -> str:
        return "Sign()" if self.bucket == "whole" else f"Sign(bucket={self.bucket!r})"

    @property
    def stretches(self) -> ScaleBlocks:
        """Where each scale holds."""
        return ScaleBlocks(self.bucket)

    def split(self, x: Tensor, spec: Spec, keys: Keys) -> tuple[Tensor, Tensor]:
        """(scales, bits: 1 for negative)."""
        values = float32(x, "Sign")
        scales = self.stretches.round(kernels.quantise.mean_abs(values, self.stretches.offsets(spec)))
        return torch.from_numpy(scales), torch.from_numpy((values < 0).astype(np.uint8))

    def join(self, side: Tensor, carrier: Tensor, spec: Spec) -> Tensor:
        """Plus or minus the stretch's scale."""
        offsets = self.stretches.offsets(spec)
        signs = np.int8(1) - np.int8(2) * carrier.numpy().astype(np.int8)
        return torch.from_numpy(kernels.quantise.undither(signs, offsets, side.numpy(), 1, 1.0)).to(spec.torch_dtype)

    def carrier(self, side: Any, spec: Spec) -> Spec:
        """Bits."""
        return replace(spec, dtype="uint8", low=0, high=1)

    def write(self, side: Tensor, spec: Spec, out: BitWriter) -> None:
        """The scales."""
        self.stretches.write(side.numpy(), out)

    def read(self, spec: Spec, src: BitReader, common: Key) -> Tensor:
        """The scales."""
        return torch.from_numpy(np.ascontiguousarray(self.stretches.read(spec, src)))

    def contract(self, spec: Spec) -> Contract:
        """delta >= 1/n; no bound is claimed where bfloat16 scales round up."""
        n = max(1, self.stretches.longest(spec))
        return Contract(delta=None if self.stretches.narrow else 1 / n, payload_bits=self.stretches.bits(spec))

    @classmethod
    def examples(cls) -> Sequence[Transform]:
        """All granularities."""
        return [cls(), cls(bucket="tensor"), cls(bucket=8)]
