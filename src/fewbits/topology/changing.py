"""Networks that change from round to round: a period of graphs, and nodes that fall asleep."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache

from fewbits.checks import check_number
from fewbits.errors import LocalError
from fewbits.rng import Key
from fewbits.topology.value import Network, Topology


@dataclass(frozen=True)
class Periodic(Network):
    """Round t uses graph (t - 1) mod their number; together they must connect all nodes."""

    graphs: tuple[Topology, ...]
    n: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "graphs", tuple(self.graphs))
        sizes = {graph.n for graph in self.graphs}
        if len(sizes) != 1:
            raise LocalError(f"Periodic: give one or more graphs on the same nodes; got sizes {sorted(sizes)}")
        object.__setattr__(self, "n", sizes.pop())

    def at(self, round: int) -> Topology:
        """The graph of a round, from 1."""
        return self.graphs[(round - 1) % len(self.graphs)]

    def expected(self) -> Topology:
        """The mean of their mixing matrices."""
        return _mean(self.graphs)


@dataclass(frozen=True)
class IntermittentNodes(Network):
    """In every round each node is asleep with probability `share`: it neither trains, nor sends, nor mixes.

    Its links stay up: it hears what its neighbours send, so that its copies of their public models stay right. Who
    sleeps when is drawn from the key, so that every node knows it of all.
    """

    network: Network
    share: float  # in [0, 1)
    key: Key
    n: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_number("IntermittentNodes: the share of inactive nodes", self.share, "[0, 1)", numpy=True)
        object.__setattr__(self, "n", self.network.n)

    def at(self, round: int) -> Topology:
        """The graph of a round without the edges of those who sleep."""
        return _night(self, round)

    def expected(self) -> Topology:
        """An edge is there when both its nodes are awake."""
        return self.network.expected().scaled((1 - self.share) ** 2)


@lru_cache(maxsize=64)  # all nodes of a process ask for the same rounds
def _night(network: IntermittentNodes, round: int) -> Topology:
    awake = network.key.fold("round", round, "awake").uniform(network.n) >= network.share
    return network.network.at(round).active(awake)


@lru_cache(maxsize=16)
def _mean(graphs: tuple[Topology, ...]) -> Topology:
    total: dict[tuple[int, int], float] = defaultdict(float)
    for graph in graphs:
        for edge, weight in zip(graph.edges, graph.edge_weights, strict=True):
            total[edge] += weight / len(graphs)
    edges = tuple(sorted(total))
    return Topology(graphs[0].n, edges, tuple(total[edge] for edge in edges))
