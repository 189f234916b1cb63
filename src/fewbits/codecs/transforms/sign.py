"""Sign: the sign of each entry, and its size as one of a few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fewbits import kernels
from fewbits.checks import check_one_of, check_whole
from fewbits.codecs.base import Keys, Transform, wide
from fewbits.codecs.transforms.scale_blocks import ScaleBlocks, float32, per_option
from fewbits.codecs.transforms.scaled import Scaled
from fewbits.errors import LocalError
from fewbits.spec import Contract, Spec

MODES = ("contractive", "unbiased")


@dataclass(frozen=True, repr=False)
class Sign(Scaled):
    """Send the sign of each entry, and the mean magnitude; or the means of a few classes of magnitudes.

    C(x)_i = sign(x_i) m_j, where m_j is the mean of the |x_i| of class j. With one size, C(x) = mean|x| * sign(x). The
    classes are cut where the squared error is nearly least (Lloyd). |C(x) - x|^2 <= (1 - delta) |x|^2 with
    delta = |x|_1^2 / (n |x|_2^2) >= 1/n, n the entries of the longest block.

    `unbiased`: all m_j are multiplied by |x|^2 / <x, C(x)>, so that <x, C(x)> = |x|^2. After `Rotate`, C(x) is then
    right on average over the rotations.

    Args:
        bucket: one set of sizes for the "whole" vector, for each "tensor", or for so many entries.
        sizes: classes of magnitudes, 1..16; 2 is two bits an entry before entropy coding.
        mode: "contractive" or "unbiased"; error feedback needs the first.

    Raises:
        LocalError: an option is none of these; unbiased stands under error feedback; at encoding, a value is beyond
            float32.

    Example:
        >>> import torch
        >>> from fewbits import Key, Receiver, Sender, Sign, Spec
        >>> x = torch.tensor([0.5, -3.0, 0.0, 2.5])
        >>> Receiver(Sign(), Spec.of(x)).receive(Sender(Sign(), Spec.of(x), Key(0)).send(x))
        tensor([ 1.5000, -1.5000,  1.5000,  1.5000])
        >>> Receiver(Sign(sizes=2), Spec.of(x)).receive(Sender(Sign(sizes=2), Spec.of(x), Key(0)).send(x))
        tensor([ 0.2500, -2.7500,  0.2500,  2.7500])

    Source: scaled signSGD, Karimireddy et al. 2019, Remark 7; two sizes, decoded as means of bins, SparseLoCo
    (arXiv 2508.15706); the unbiased scale, EDEN (Vargaftik et al. 2022). Different here: sign(0) and sign(-0.0) are +1,
    so one bit is enough; both signs share their means; classes are fitted to the vector, not to a normal distribution;
    the scales of buckets are bfloat16, rounded up, and then no bound is promised.
    """

    wire_name: ClassVar[str] = "sign"

    bucket: str | int = "whole"
    sizes: int = 1
    mode: str = "contractive"

    def __post_init__(self) -> None:
        per_option("Sign", self.bucket)
        check_whole("Sign: sizes", self.sizes, 1, 16)
        check_one_of("Sign: mode", self.mode, MODES)

    def __repr__(self) -> str:
        default = Sign()
        fields = {k: getattr(self, k) for k in ("bucket", "sizes", "mode")}
        return f"Sign({', '.join(f'{k}={v!r}' for k, v in fields.items() if v != getattr(default, k))})"

    @property
    def stretches(self) -> ScaleBlocks:
        return ScaleBlocks(self.bucket, self.sizes)

    def split(self, x: Tensor, spec: Spec, keys: Keys) -> tuple[Tensor, Tensor]:
        values, offsets = float32(x, "Sign"), self.stretches.offsets(spec)
        if self.sizes == 1:
            codes = (values < 0).view(np.uint8)
            means = kernels.quantise.mean_abs(values, offsets)[:, None]
        else:
            codes = kernels.sizes.classify(values, offsets, kernels.sizes.borders(values, offsets, self.sizes))
            totals, counts = kernels.sizes.sums(values, codes, offsets, self.sizes)
            means = (totals / np.maximum(counts, 1)).astype(np.float32)
        if self.mode == "unbiased":
            means = kernels.sizes.lengthen(values, codes, offsets, means)
        return torch.from_numpy(self.stretches.round(means.reshape(-1))), torch.from_numpy(codes)

    def join(self, side: Tensor, carrier: Tensor, spec: Spec) -> Tensor:
        """Plus or minus the size of the entry's class in its stretch."""
        offsets = self.stretches.offsets(spec)
        means = side.numpy().reshape(len(offsets) - 1, self.sizes)
        if self.sizes == 1:
            values = kernels.quantise.signed(carrier.numpy(), offsets, means[:, 0])
        else:
            values = kernels.sizes.expand(carrier.numpy(), offsets, means)
        return torch.from_numpy(values).to(spec.torch_dtype)

    def carrier(self, side: Any, spec: Spec) -> Spec:
        return spec.derive(dtype="uint8", low=0, high=2 * self.sizes - 1)

    def contract(self, spec: Spec) -> Contract:
        """delta >= 1/n; no bound is claimed where bfloat16 scales round up, nor for the unbiased scale."""
        n = max(1, self.stretches.longest(spec))
        delta = None if self.stretches.narrow or self.mode == "unbiased" else 1 / n
        return Contract(delta=delta, payload_bits=self.stretches.bits(spec), bounded=wide(spec) == spec)

    def check(self) -> None:
        """|C(x)| reaches sqrt(n) |x| for a vector of one entry that counts, so feedback of its error diverges."""
        if self.mode == "unbiased":
            raise LocalError(
                f"{self!r} may be longer than its vector and is not a contraction, so feedback of its error diverges; "
                'use Sign(mode="contractive")'
            )

    @classmethod
    def examples(cls) -> Sequence[Transform]:
        return [
            cls(),
            cls(bucket="tensor"),
            cls(bucket=8),
            cls(sizes=2),
            cls(bucket=8, sizes=3),
            cls(bucket="tensor", sizes=4, mode="unbiased"),
            cls(mode="unbiased"),
        ]
