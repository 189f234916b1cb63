"""Sign: one bit per entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fewbits import kernels
from fewbits.codecs.base import Keys, Transform, wide
from fewbits.codecs.transforms.scale_blocks import float32, per_option
from fewbits.codecs.transforms.scaled import Scaled
from fewbits.spec import Contract, Spec


@dataclass(frozen=True, repr=False)
class Sign(Scaled):
    """Send one bit per entry, and the mean magnitude.

    C(x) = mean|x| * sign(x). |C(x) - x|^2 <= (1 - delta) |x|^2 with delta = |x|_1^2 / (n |x|_2^2) >= 1/n, n the
    entries of the longest block.

    Args:
        bucket: one scale for the "whole" vector, for each "tensor", or for so many entries.

    Raises:
        LocalError: bucket is none of these; at encoding, a value is beyond float32.

    Example:
        >>> import torch
        >>> from fewbits import Key, Receiver, Sender, Sign, Spec
        >>> x = torch.tensor([0.5, -3.0, 0.0, 2.5])
        >>> Receiver(Sign(), Spec.of(x)).receive(Sender(Sign(), Spec.of(x), Key(0)).send(x))
        tensor([ 1.5000, -1.5000,  1.5000,  1.5000])

    Source: scaled signSGD, Karimireddy et al. 2019, Remark 7. Different here: sign(0) and sign(-0.0) are +1, so one bit
    is enough; the scales of buckets are bfloat16, rounded up, and then no bound is promised.
    """

    wire_name: ClassVar[str] = "sign"

    bucket: str | int = "whole"

    def __post_init__(self) -> None:
        per_option("Sign", self.bucket)

    def __repr__(self) -> str:
        return "Sign()" if self.bucket == "whole" else f"Sign(bucket={self.bucket!r})"

    def split(self, x: Tensor, spec: Spec, keys: Keys) -> tuple[Tensor, Tensor]:
        values = float32(x, "Sign")
        scales = self.stretches.round(kernels.quantise.mean_abs(values, self.stretches.offsets(spec)))
        return torch.from_numpy(scales), torch.from_numpy((values < 0).view(np.uint8))

    def join(self, side: Tensor, carrier: Tensor, spec: Spec) -> Tensor:
        """Plus or minus the stretch's scale."""
        values = kernels.quantise.signed(carrier.numpy(), self.stretches.offsets(spec), side.numpy())
        return torch.from_numpy(values).to(spec.torch_dtype)

    def carrier(self, side: Any, spec: Spec) -> Spec:
        return spec.derive(dtype="uint8", low=0, high=1)

    def contract(self, spec: Spec) -> Contract:
        """delta >= 1/n; no bound is claimed where bfloat16 scales round up."""
        n = max(1, self.stretches.longest(spec))
        delta = None if self.stretches.narrow else 1 / n
        return Contract(delta=delta, payload_bits=self.stretches.bits(spec), bounded=wide(spec) == spec)

    @classmethod
    def examples(cls) -> Sequence[Transform]:
        return [cls(), cls(bucket="tensor"), cls(bucket=8)]
