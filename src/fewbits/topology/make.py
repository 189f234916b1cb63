"""Topologies from edges and a weight rule, or from a mixing matrix."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fewbits.checks import check_one_of
from fewbits.errors import LocalError
from fewbits.rng import Key
from fewbits.topology.value import ROUNDING, Topology

RULES = ("metropolis", "uniform")


def graph(n: int, edges: Iterable[tuple[int, int]], weights: str = "metropolis") -> Topology:
    """A connected graph from its edges, with mixing weights by a rule.

    metropolis: w_ij = 1 / (1 + max(d_i, d_j)), where d is a node's degree. uniform: w_ij = 1 / (1 + largest d).

    Args:
        n: number of nodes.
        edges: pairs of different nodes 0..n-1, in any order.
        weights: "metropolis" or "uniform".

    Raises:
        LocalError: an edge is invalid, the graph is not connected, or `weights` has another value.

    >>> graph(3, [(1, 0), (1, 2)]).weights.round(2).tolist()
    [[0.67, 0.33, 0.0], [0.33, 0.33, 0.33], [0.0, 0.33, 0.67]]

    Source: Metropolis-Hastings weights, Xiao and Boyd 2004.
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
    """A connected graph from a mixing matrix.

    Args:
        w: W, (n, n), symmetric and doubly stochastic.

    Raises:
        LocalError: W is not symmetric, not doubly stochastic or negative somewhere, or the graph is not connected.

    >>> from fewbits.topology import ring
    >>> from_weights(ring(4).weights).neighbours(0)
    (1, 3)
    """
    w = np.asarray(w, np.float64)
    _check_matrix(w)
    pairs = [(i, j) for i, j in np.argwhere(np.triu(w, 1) > 0).tolist()]
    found = Topology(len(w), tuple(pairs), tuple(float(w[i, j]) for i, j in pairs))
    found.check()
    return found


def _check_matrix(w: np.ndarray) -> None:
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


def check_key(what: str, key: object) -> None:
    """LocalError unless this is a Key."""
    if not isinstance(key, Key):
        raise LocalError(f"{what} must be a Key, such as Key(0); got {key!r}")
