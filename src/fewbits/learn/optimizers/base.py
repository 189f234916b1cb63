"""ServerOptimizer: the interface of server optimisers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from fewbits.codecs import Transform

Moments = tuple[Tensor, ...]


class ServerOptimizer(ABC):
    """Base of server optimisers: a frozen value with a pure `step`.

    `update` is the weighted mean of start - end over the clients, a pseudo-gradient.
    """

    needs_objective: ClassVar[bool] = False  # True: invalid without the clients' half of the algorithm

    @property
    def carrier(self) -> Transform | None:
        """The linear transform under which `update` arrives, unexpanded; None: it is a whole vector."""
        return None

    @abstractmethod
    def init(self, numel: int) -> Moments:
        """Return the moments before the first step.  # (numel,) each"""

    @abstractmethod
    def step(self, theta: Tensor, update: Tensor, moments: Moments, *, share: float = 1.0) -> tuple[Tensor, Moments]:
        """Return (new theta, new moments).  # (numel,) each

        Args:
            theta: (numel,) the server's parameters.
            update: (numel,) the mean update of the round.
            moments: the moments after the step before.
            share: weight of the clients in `update` over that of all clients, in (0, 1]; |S|/N for equal weights.
        """
