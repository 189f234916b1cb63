"""ServerOptimizer: what every server optimiser has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from fewbits.codecs import Transform

Moments = tuple[Tensor, ...]


class ServerOptimizer(ABC):
    """Frozen value; `step` is pure. `update` is the clients' weighted mean of start - end: a pseudo-gradient."""

    needs_objective: ClassVar[bool] = False  # the server's half of an algorithm, meaningless without the clients' half

    @property
    def carrier(self) -> Transform | None:
        """The linear first step of the uplink whose carriers `update` is the mean of; None: it is of whole vectors."""
        return None

    @abstractmethod
    def init(self, numel: int) -> Moments:
        """The moments before the first step, each  # (numel,)."""

    @abstractmethod
    def step(self, theta: Tensor, update: Tensor, moments: Moments, *, share: float = 1.0) -> tuple[Tensor, Moments]:
        """(new theta, new moments), all  # (numel,).

        `share` is the weight of the clients in `update` over that of all clients, in (0, 1]: |S|/N when all weigh
        the same.
        """
