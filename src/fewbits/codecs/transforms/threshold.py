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
    """Keep the entries at or above a magnitude, however many there are.

    C(x)_i = x_i where |x_i| >= tau, else 0. The error of an entry is below tau; no relative bound is promised.

    Args:
        tau: finite, 0 or more, in the unit of x; larger: fewer bytes.

    Raises:
        LocalError: tau is negative or not finite.

    Example:
        >>> import torch
        >>> from fewbits import Key, Receiver, Sender, Spec
        >>> from fewbits.codecs import Threshold
        >>> x = torch.tensor([0.5, -3.0, 0.0, 2.0])
        >>> Receiver(Threshold(1.0), Spec.of(x)).receive(Sender(Threshold(1.0), Spec.of(x), Key(0)).send(x))
        tensor([ 0., -3.,  0.,  2.])

    Source: the hard threshold of Sahu et al. 2021. Different here: zeros are never sent, even with tau = 0.
    """

    wire_name: ClassVar[str] = "threshold"

    tau: float

    def __post_init__(self) -> None:
        check_number("Threshold: tau", self.tau, "[0, inf)")
        object.__setattr__(self, "tau", float(self.tau))

    def most(self, spec: Spec) -> int:
        return spec.numel

    def select(self, x: Tensor, spec: Spec, keys: Keys) -> np.ndarray:
        """All at or above tau; exact zeros are never sent."""
        return kernels.select.above(magnitudes(x), self.tau)

    def contract(self, spec: Spec) -> Contract:
        return Contract(bounded=True)

    @classmethod
    def examples(cls) -> Sequence[Transform]:
        return [cls(0.0), cls(1.0)]
