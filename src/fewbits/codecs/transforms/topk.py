"""TopK: the entries of largest magnitude."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from fewbits import kernels
from fewbits.checks import check_number
from fewbits.codecs.base import Keys, Transform
from fewbits.codecs.transforms.sparse import Sparse, magnitudes
from fewbits.spec import Contract, Spec


@dataclass(frozen=True)
class TopK(Sparse):
    """Keep the entries of largest magnitude; the rest become zero.

    C(x)_i = x_i for the k = ceil(fraction * n) largest |x_i|, else 0. |C(x) - x|^2 <= (1 - k/n) |x|^2.

    Args:
        fraction: share of the entries that travel, in (0, 1]; smaller: fewer bytes, slower convergence.

    Raises:
        LocalError: fraction is outside (0, 1].

    Example:
        >>> import torch
        >>> from fewbits import Key, Receiver, Sender, Spec, TopK
        >>> x = torch.tensor([0.5, -3.0, 0.0, 2.0])
        >>> Receiver(TopK(0.5), Spec.of(x)).receive(Sender(TopK(0.5), Spec.of(x), Key(0)).send(x))
        tensor([ 0., -3.,  0.,  2.])

    Source: Stich, Cordonnier, Jaggi 2018. Different here: positions travel as a sorted set; ties go to the lower index,
    unlike torch.topk, so that bytes do not depend on the device; zeros are never chosen; magnitudes are compared in
    float32.
    """

    wire_name: ClassVar[str] = "topk"

    fraction: float

    def __post_init__(self) -> None:
        check_number("TopK: fraction", self.fraction, "(0, 1]")
        object.__setattr__(self, "fraction", float(self.fraction))

    def most(self, spec: Spec) -> int:
        """k = ceil(fraction*n)."""
        return count(self.fraction, spec.numel)

    def select(self, x: Tensor, spec: Spec, keys: Keys) -> np.ndarray:
        return kernels.select.largest(magnitudes(x), self.most(spec))

    def contract(self, spec: Spec) -> Contract:
        """delta = k/n; lossless when all are kept."""
        delta = self.most(spec) / spec.numel if spec.numel else 1.0
        return Contract(delta=delta, bounded=True)

    @classmethod
    def examples(cls) -> Sequence[Transform]:
        return [cls(0.01), cls(0.1), cls(1.0)]


def count(fraction: float, n: int) -> int:
    """ceil(fraction*n), at least 1 of n > 0, safe against 0.07 * 100 = 7.000000000000001."""
    return min(n, max(1, math.ceil(round(fraction * n, 6))))
