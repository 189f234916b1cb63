"""Network: who may hear whom, and with which mixing weights in each round."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from fewbits.errors import LocalError

if TYPE_CHECKING:
    from fewbits.learn.topology.value import Topology


class Network(ABC):
    """A graph per round, on the same nodes 0..n-1. A `Topology` is the network that never changes."""

    n: int

    @abstractmethod
    def at(self, round: int) -> Topology:
        """The graph and weights of a round, from 1."""

    @abstractmethod
    def expected(self) -> Topology:
        """Mean mixing weights over the rounds, on the union of all graphs: who has a link with whom at all."""

    @property
    def fixed(self) -> bool:
        """Whether every round has the same weights."""
        return False

    @property
    def spectral_gap(self) -> float:
        """1 - |lambda_2| of the mean mixing matrix, in [0, 1]; larger: nodes agree sooner."""
        return self.expected().gap

    def neighbours(self, i: int) -> tuple[int, ...]:
        """Nodes with a link to i, ascending, whether it is used in this round or not."""
        return tuple(self.expected().row(i))

    def check(self) -> None:
        """LocalError unless, over time, every node can hear of every other."""
        reached = self.expected().component(0)
        if len(reached) < self.n:
            outside = sorted(set(range(self.n)) - reached)
            shown = ", ".join(map(str, outside[:8])) + (", ..." if len(outside) > 8 else "")
            raise LocalError(f"the graph is not connected: from node 0 there is no way to {shown}; add edges")
