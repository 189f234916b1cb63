"""Network: the graph and mixing weights of every round. Topology: the network that never changes."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fewbits.errors import LocalError

ROUNDING = 1e-9  # tolerance of row sums and symmetry of W


class Network(ABC):
    """A graph per round, on the same nodes 0..n-1; `at(round)` gives its edges and weights.

    >>> from fewbits.topology import ring
    >>> ring(5).at(3) == ring(5), ring(5).neighbours(0)
    (True, (1, 4))
    """

    n: int

    @abstractmethod
    def at(self, round: int) -> Topology:
        """The graph and weights of a round, from 1."""

    @abstractmethod
    def expected(self) -> Topology:
        """The mean mixing matrix over the rounds, on the union of all graphs."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """The text that nodes, and the parts of a resumed run, compare; no name of a Python class stands in it."""

    @property
    def fixed(self) -> bool:
        """Whether every round has the same weights."""
        return False

    @property
    def spectral_gap(self) -> float:
        """1 - |lambda_2| of the mean mixing matrix, in [0, 1]; larger values mean faster agreement."""
        return self.expected().gap

    def neighbours(self, i: int) -> tuple[int, ...]:
        """Nodes with an edge to i in any round, ascending."""
        return tuple(self.expected().neighbour_weights(i))

    def check(self) -> None:
        """Raise LocalError unless the union of all graphs is connected."""
        reached = self.expected().component(0)
        if len(reached) < self.n:
            outside = sorted(set(range(self.n)) - reached)
            shown = ", ".join(map(str, outside[:8])) + (", ..." if len(outside) > 8 else "")
            raise LocalError(f"the graph is not connected: no path leads from node 0 to {shown}; add edges")


@dataclass(frozen=True, repr=False)
class Topology(Network):
    """A fixed graph with mixing weights: a symmetric, doubly stochastic matrix W.

    w_ij = w_ji >= 0 for every edge, and w_ii = 1 - sum over j of w_ij. `topology.graph` builds one from edges.

    Args:
        n: number of nodes.
        edges: pairs (i, j) with i < j, ascending, each once.
        edge_weights: one weight w_ij per edge.
        inactive: nodes that take no part in this round; they have no edges.

    Raises:
        LocalError: an edge is invalid, a weight is negative, or a w_ii would be negative.

    >>> Topology(3, ((0, 1), (1, 2)), (0.5, 0.25)).weights.tolist()
    [[0.5, 0.5, 0.0], [0.5, 0.25, 0.25], [0.0, 0.25, 0.75]]
    """

    n: int
    edges: tuple[tuple[int, int], ...]
    edge_weights: tuple[float, ...]
    inactive: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if not isinstance(self.n, int) or self.n < 1:
            raise LocalError(f"Topology: needs one node or more; got n = {self.n!r}")
        self._check_edges()
        self._check_weights()

    def _check_edges(self) -> None:
        for i, j in self.edges:
            if not 0 <= i < j < self.n:
                raise LocalError(f"Topology: edges join two of the nodes 0..{self.n - 1}, smaller first; got {i}-{j}")
        if list(self.edges) != sorted(set(self.edges)):
            raise LocalError("Topology: edges must be ascending, each once; build one with topology.graph(n, edges)")
        if len(self.edge_weights) != len(self.edges):
            raise LocalError(f"Topology: {len(self.edges)} edges need as many weights; got {len(self.edge_weights)}")

    def _check_weights(self) -> None:
        for (i, j), w in zip(self.edges, self.edge_weights, strict=True):
            if not (math.isfinite(w) and w >= 0):
                raise LocalError(f"Topology: mixing weights must not be negative; w[{i}, {j}] is {w}")
        for i in range(self.n):
            if (total := sum(self.neighbour_weights(i).values())) > 1 + ROUNDING:
                raise LocalError(
                    f"Topology: W must be doubly stochastic, but the edge weights of node {i} sum to {total:.6g}, "
                    "which makes w_ii negative; give smaller weights"
                )

    def __repr__(self) -> str:
        return f"Topology({self.n} nodes, {len(self.edges)} edges, {self.digest})"

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def digest(self) -> str:
        """Eight hexadecimal digits that identify nodes, edges and weights."""
        edges = np.array(self.edges, "<i8").tobytes() + np.array(self.edge_weights, "<f8").tobytes()
        text = f"{self.n} {sorted(map(int, self.inactive))} ".encode() + edges
        return hashlib.blake2b(text, digest_size=4, person=b"fewbits.graph").hexdigest()

    @cached_property
    def _neighbour_weights(self) -> list[dict[int, float]]:
        found: list[dict[int, float]] = [{} for _ in range(self.n)]
        for (i, j), w in zip(self.edges, self.edge_weights, strict=True):
            found[i][j] = found[j][i] = w
        return [dict(sorted(weights.items())) for weights in found]

    @property
    def identity(self) -> str:
        return f'topology(digest="{self.digest}",edges={len(self.edges)},n={self.n})'

    def neighbour_weights(self, i: int) -> Mapping[int, float]:
        """The weights w_ij of node i's edges by neighbour, ascending; without w_ii."""
        if not 0 <= i < self.n:
            raise LocalError(f"there is no node {i}; nodes are 0..{self.n - 1}")
        return self._neighbour_weights[i]

    @cached_property
    def weights(self) -> np.ndarray:
        """The mixing matrix W.  # (n, n) float64"""
        w = np.zeros((self.n, self.n))
        for (i, j), weight in zip(self.edges, self.edge_weights, strict=True):
            w[i, j] = w[j, i] = weight
        w[np.diag_indices(self.n)] = 1 - w.sum(1)
        w.flags.writeable = False
        return w

    @cached_property
    def eigenvalues(self) -> np.ndarray:
        """The eigenvalues of W, ascending; the last is 1.  # (n,) float64"""
        return np.linalg.eigvalsh(self.weights)

    @property
    def gap(self) -> float:
        """The spectral gap: 1 minus the second largest magnitude of the eigenvalues."""
        if self.n == 1:
            return 1.0
        return max(0.0, 1 - max(abs(float(self.eigenvalues[0])), abs(float(self.eigenvalues[-2]))))

    @property
    def fixed(self) -> bool:
        return True

    def at(self, round: int) -> Topology:
        return self

    def expected(self) -> Topology:
        return self

    def with_active(self, mask: Sequence[bool] | np.ndarray) -> Topology:
        """The topology of a round in which only some nodes take part.

        An inactive node's edge weights move to the diagonal, so that W stays symmetric and doubly stochastic.

        Args:
            mask: one truth value per node; False marks an inactive node.

        Raises:
            LocalError: the length of `mask` is not n.

        >>> from fewbits.topology import ring
        >>> ring(4).with_active([True, True, True, False]).edges
        ((0, 1), (1, 2))
        """
        if len(mask) != self.n:
            raise LocalError(f"Topology.with_active: expected one truth value per node, {self.n}; got {len(mask)}")
        remaining = [k for k, (i, j) in enumerate(self.edges) if mask[i] and mask[j]]
        inactive = self.inactive | {i for i in range(self.n) if not mask[i]}
        edges, weights = tuple(self.edges[k] for k in remaining), tuple(self.edge_weights[k] for k in remaining)
        return Topology(self.n, edges, weights, frozenset(inactive))

    def scaled(self, factor: float) -> Topology:
        """The topology with every edge weight times a factor in [0, 1]."""
        return replace(self, edge_weights=tuple(w * factor for w in self.edge_weights))

    def component(self, start: int) -> set[int]:
        """All nodes that a path connects with `start`."""
        reached, frontier = {start}, [start]
        while frontier:
            found = [j for j in self._neighbour_weights[frontier.pop()] if j not in reached]
            reached.update(found)
            frontier += found
        return reached
