"""Network: who may hear whom with which weights, round by round; Topology: the one that never changes."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fewbits.errors import LocalError

ROUNDING = 1e-9  # how far a row of W may be from 1


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


@dataclass(frozen=True, repr=False)
class Topology(Network):
    """n nodes, edges, and one weight w_ij = w_ji >= 0 per edge; w_ii = 1 - sum over j of w_ij.

    Symmetric and of row sum 1 by construction; that no w_ii is negative is checked. Nodes that are asleep have no edges
    in this round: they keep their model, and W stays doubly stochastic because the diagonal takes what is left.
    """

    n: int
    edges: tuple[tuple[int, int], ...]  # (i, j) with i < j, ascending, each once
    edge_weights: tuple[float, ...]  # w_ij, one per edge
    inactive: frozenset[int] = frozenset()  # nodes that take no part in this round

    def __post_init__(self) -> None:
        if not isinstance(self.n, int) or self.n < 1:
            raise LocalError(f"Topology: needs one node or more; got n = {self.n!r}")
        for i, j in self.edges:
            if not 0 <= i < j < self.n:
                raise LocalError(f"Topology: edges join two of the nodes 0..{self.n - 1}, smaller first; got {i}-{j}")
        if list(self.edges) != sorted(set(self.edges)):
            raise LocalError("Topology: edges must be ascending, each once; build one with topology.graph(n, edges)")
        if len(self.edge_weights) != len(self.edges):
            raise LocalError(f"Topology: {len(self.edges)} edges need as many weights; got {len(self.edge_weights)}")
        for (i, j), w in zip(self.edges, self.edge_weights, strict=True):
            if not (math.isfinite(w) and w >= 0):
                raise LocalError(f"Topology: mixing weights must not be negative; w[{i}, {j}] is {w}")
        for i in range(self.n):
            if (total := sum(self.row(i).values())) > 1 + ROUNDING:
                raise LocalError(
                    f"Topology: W must be doubly stochastic, but the weights of node {i}'s edges sum to {total:.6g}, "
                    "which leaves a negative w_ii; give smaller ones"
                )

    def __repr__(self) -> str:
        return f"Topology({self.n} nodes, {len(self.edges)} edges, {self.digest})"

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def digest(self) -> str:
        """Eight hexadecimal digits that name nodes, edges and weights."""
        edges = np.array(self.edges, "<i8").tobytes() + np.array(self.edge_weights, "<f8").tobytes()
        text = f"{self.n} {sorted(self.inactive)} ".encode() + edges
        return hashlib.blake2b(text, digest_size=4, person=b"fewbits.graph").hexdigest()

    @cached_property
    def _rows(self) -> list[dict[int, float]]:
        rows: list[dict[int, float]] = [{} for _ in range(self.n)]
        for (i, j), w in zip(self.edges, self.edge_weights, strict=True):
            rows[i][j] = rows[j][i] = w
        return [dict(sorted(row.items())) for row in rows]

    def row(self, i: int) -> Mapping[int, float]:
        """w_ij of node i's edges by neighbour, ascending; w_ii is not among them."""
        if not 0 <= i < self.n:
            raise LocalError(f"there is no node {i}; nodes are 0..{self.n - 1}")
        return self._rows[i]

    @cached_property
    def weights(self) -> np.ndarray:
        """W.  # (n, n) float64"""
        w = np.zeros((self.n, self.n))
        for (i, j), weight in zip(self.edges, self.edge_weights, strict=True):
            w[i, j] = w[j, i] = weight
        w[np.diag_indices(self.n)] = 1 - w.sum(1)
        w.flags.writeable = False
        return w

    @cached_property
    def eigenvalues(self) -> np.ndarray:
        """Of W, ascending; the last is 1.  # (n,) float64"""
        return np.linalg.eigvalsh(self.weights)

    @property
    def gap(self) -> float:
        """1 - the second largest of the eigenvalues' magnitudes."""
        if self.n == 1:
            return 1.0
        return max(0.0, 1 - max(abs(float(self.eigenvalues[0])), abs(float(self.eigenvalues[-2]))))

    @property
    def fixed(self) -> bool:
        """True."""
        return True

    def at(self, round: int) -> Topology:
        """Itself."""
        return self

    def expected(self) -> Topology:
        """Itself."""
        return self

    def active(self, mask: Sequence[bool] | np.ndarray) -> Topology:
        """The same for one round in which only some nodes take part: edges of the others are gone.

        W stays symmetric and doubly stochastic: the diagonal absorbs their weights.
        """
        if len(mask) != self.n:
            raise LocalError(f"Topology.active: expected one truth value per node, {self.n}; got {len(mask)}")
        kept = [k for k, (i, j) in enumerate(self.edges) if mask[i] and mask[j]]
        inactive = self.inactive | {i for i in range(self.n) if not mask[i]}
        edges, weights = tuple(self.edges[k] for k in kept), tuple(self.edge_weights[k] for k in kept)
        return Topology(self.n, edges, weights, frozenset(inactive))

    def scaled(self, factor: float) -> Topology:
        """Every edge's weight times a factor in [0, 1]: I - W scaled by it."""
        return replace(self, edge_weights=tuple(w * factor for w in self.edge_weights))

    def component(self, start: int) -> set[int]:
        """All nodes that can be reached from one."""
        reached, ahead = {start}, [start]
        while ahead:
            found = [j for j in self._rows[ahead.pop()] if j not in reached]
            reached.update(found)
            ahead += found
        return reached
