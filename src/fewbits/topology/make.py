"""Topologies from edges and a rule for the weights, or from a mixing matrix."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fewbits.checks import check_one_of
from fewbits.errors import LocalError
from fewbits.topology.value import ROUNDING, Topology

RULES = ("metropolis", "uniform")


def graph(n: int, edges: Iterable[tuple[int, int]], weights: str = "metropolis") -> Topology:
    """A connected graph from its edges, in any order, with weights by rule.

    metropolis: w_ij = 1 / (1 + max(d_i, d_j)) (Metropolis-Hastings; Xiao and Boyd 2004). uniform: 1 / (1 + largest d).

    >>> graph(3, [(1, 0), (1, 2)]).weights.round(2).tolist()
    [[0.67, 0.33, 0.0], [0.33, 0.33, 0.33], [0.0, 0.33, 0.67]]
    """
    check_one_of("topology: weights", weights, RULES)
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
