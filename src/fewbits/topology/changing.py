"""Networks that change from round to round: graphs in turn, and nodes that are inactive in some rounds."""

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
    """A network that uses several graphs in turn: round t uses graph (t - 1) mod their number.

    Args:
        graphs: one or more topologies on the same nodes. Together they must connect all nodes.

    Raises:
        LocalError: there is no graph, or the graphs have different numbers of nodes.

    >>> from fewbits.topology import ring, star
    >>> network = Periodic((ring(6), star(6)))
    >>> network.at(1).neighbours(3), network.at(2).neighbours(3)
    ((2, 4), (0,))

    Source: Koloskova et al. 2020 (arXiv 2003.10422), as a fixed sequence of mixing matrices.
    """

    graphs: tuple[Topology, ...]
    n: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "graphs", tuple(self.graphs))
        sizes = {graph.n for graph in self.graphs}
        if len(sizes) != 1:
            raise LocalError(f"Periodic: give one or more graphs on the same nodes; got sizes {sorted(sizes)}")
        object.__setattr__(self, "n", sizes.pop())

    @property
    def identity(self) -> str:
        return f"periodic(graphs=[{','.join(graph.identity for graph in self.graphs)}])"

    def at(self, round: int) -> Topology:
        return self.graphs[(round - 1) % len(self.graphs)]

    def expected(self) -> Topology:
        return _mean(self.graphs)


@dataclass(frozen=True)
class IntermittentNodes(Network):
    """A network whose nodes are inactive at random: each node, in each round, with probability `share`.

    An inactive node neither trains, nor sends, nor mixes. It still receives its neighbours' frames, so that its copies
    of their public vectors stay right. An inactive node's edge weights move to the diagonal for that round:
    W stays symmetric and doubly stochastic.

    Args:
        network: the network of all nodes.
        share: probability that a node is inactive in a round, in [0, 1).
        key: every node draws the same inactive nodes from this key.

    Raises:
        LocalError: `share` is outside [0, 1).

    >>> from fewbits import Key
    >>> from fewbits.topology import ring
    >>> network = IntermittentNodes(ring(6), 0.3, Key(0))
    >>> [sorted(network.at(t).inactive) for t in (1, 2, 3)]
    [[0, 1, 2, 5], [2, 4], [1]]

    Source: Koloskova et al. 2020 (arXiv 2003.10422), random mixing matrices. Here both ends know the draw.
    """

    network: Network
    share: float
    key: Key
    n: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_number("IntermittentNodes: the share of inactive nodes", self.share, "[0, 1)", numpy=True)
        object.__setattr__(self, "n", self.network.n)

    @property
    def identity(self) -> str:
        key, share = self.key.text(), float(self.share)
        return f"intermittent_nodes(key={key},network={self.network.identity},share={share!r})"

    def at(self, round: int) -> Topology:
        return _at(self, round)

    def expected(self) -> Topology:
        # An edge is used when both its nodes are active.
        return self.network.expected().scaled((1 - self.share) ** 2)


@lru_cache(maxsize=64)  # all nodes of a process ask for the same rounds
def _at(network: IntermittentNodes, round: int) -> Topology:
    active = network.key.fold("round", round, "awake").uniform(network.n) >= network.share
    return network.network.at(round).with_active(active)


@lru_cache(maxsize=16)
def _mean(graphs: tuple[Topology, ...]) -> Topology:
    total: dict[tuple[int, int], float] = defaultdict(float)
    for graph in graphs:
        for edge, weight in zip(graph.edges, graph.edge_weights, strict=True):
            total[edge] += weight / len(graphs)
    edges = tuple(sorted(total))
    return Topology(graphs[0].n, edges, tuple(total[edge] for edge in edges))
