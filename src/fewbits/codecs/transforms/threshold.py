"""Threshold: the entries at or above a magnitude."""

from __future__ import annotations

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
class Threshold(Sparse):
    """Keep the entries with |x| >= tau, however many there are; the rest become zero.

    Hard thresholding (Sahu et al. 2021): the error per entry is below tau, an absolute bound, so neither omega nor
    delta is promised.
    """

    wire_name: ClassVar[str] = "threshold"

    tau: float  # >= 0, in the units of x; larger: fewer bytes

    def __post_init__(self) -> None:
        check_number("Threshold: tau", self.tau, "[0, inf)")
        object.__setattr__(self, "tau", float(self.tau))

    def most(self, spec: Spec) -> int:
        """All of them."""
        return spec.numel

    def select(self, x: Tensor, spec: Spec, keys: Keys) -> np.ndarray:
        """All at or above tau; exact zeros are never sent."""
        return kernels.select.above(magnitudes(x), self.tau)

    def contract(self, spec: Spec) -> Contract:
        """No relative bound."""
        return Contract()

    @classmethod
    def examples(cls) -> Sequence[Transform]:
        """Everything that is not zero, and the large ones."""
        return [cls(0.0), cls(1.0)]
