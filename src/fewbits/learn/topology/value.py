"""Topology: an undirected graph with a symmetric, doubly stochastic mixing matrix."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fewbits.errors import LocalError
from fewbits.learn.topology.network import Network

RULES = ("metropolis", "uniform")
ROUNDING = 1e-9  # how far a row of W may be from 1


@dataclass(frozen=True, repr=False)
class Topology(Network):
    """n nodes, edges, and one weight w_ij = w_ji >= 0 per edge; w_ii = 1 - sum over j of w_ij.

    Symmetric and of row sum 1 by construction; that no w_ii is negative is checked. Nodes that are asleep have no edges
    in this round: they keep their model, and W stays doubly stochastic because the diagonal takes what is left.
    """

    n: int
    edges: tuple[tuple[int, int], ...]  # (i, j) with i < j, ascending, each once
    edge_weights: tuple[float, ...]  # w_ij, one per edge
    asleep: frozenset[int] = frozenset()  # nodes that take no part in this round

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
        text = f"{self.n} {sorted(self.asleep)} ".encode() + edges
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
        asleep = self.asleep | {i for i in range(self.n) if not mask[i]}
        edges, weights = tuple(self.edges[k] for k in kept), tuple(self.edge_weights[k] for k in kept)
        return Topology(self.n, edges, weights, frozenset(asleep))

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


def graph(n: int, edges: Iterable[tuple[int, int]], weights: str = "metropolis") -> Topology:
    """A connected graph from its edges, in any order, with weights by rule.

    metropolis: w_ij = 1 / (1 + max(d_i, d_j)) (Metropolis-Hastings; Xiao and Boyd 2004). uniform: 1 / (1 + largest d).

    >>> graph(3, [(1, 0), (1, 2)]).weights.round(2).tolist()
    [[0.67, 0.33, 0.0], [0.33, 0.33, 0.33], [0.0, 0.33, 0.67]]
    """
    if weights not in RULES:
        raise LocalError(f"topology: weights must be one of {', '.join(RULES)}; got {weights!r}")
    pairs = tuple(sorted({(min(i, j), max(i, j)) for i, j in edges}))
    degree = [0] * n
    for i, j in pairs:
        if not 0 <= i < j < n:
            raise LocalError(f"topology: an edge joins two different nodes among 0..{n - 1}; got {i}-{j}")
        degree[i] += 1
        degree[j] += 1
    largest = max(degree, default=0)
    rule = (lambda i, j: max(degree[i], degree[j])) if weights == "metropolis" else (lambda i, j: largest)
    found = Topology(n, pairs, tuple(1 / (1 + rule(i, j)) for i, j in pairs))
    found.check()
    return found


def from_weights(w: np.ndarray) -> Topology:
    """A connected graph from a mixing matrix; LocalError unless it is symmetric and doubly stochastic.  # (n, n)"""
    w = np.asarray(w, np.float64)
    if w.ndim != 2 or w.shape[0] != w.shape[1] or not np.isfinite(w).all():
        raise LocalError(f"topology: a mixing matrix is square and finite; got shape {w.shape}")
    off = np.argwhere(np.abs(w - w.T) > ROUNDING)
    if len(off):
        i, j = off[0].tolist()
        raise LocalError(f"topology: W must be symmetric; w[{i}, {j}] is {w[i, j]:.6g} and w[{j}, {i}] {w[j, i]:.6g}")
    if (w < 0).any():
        i, j = np.argwhere(w < 0)[0].tolist()
        raise LocalError(f"topology: mixing weights must not be negative; w[{i}, {j}] is {w[i, j]:.6g}")
    sums = w.sum(1)
    if (np.abs(sums - 1) > 1e-6).any():
        i = int(np.argmax(np.abs(sums - 1)))
        raise LocalError(f"topology: rows and columns of W must sum to 1; row {i} sums to {sums[i]:.6g}")
    pairs = [(i, j) for i, j in np.argwhere(np.triu(w, 1) > 0).tolist()]
    found = Topology(len(w), tuple(pairs), tuple(float(w[i, j]) for i, j in pairs))
    found.check()
    return found
