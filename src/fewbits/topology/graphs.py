"""Named graphs, built by networkx."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fewbits.checks import check_number
from fewbits.choices import unknown
from fewbits.errors import LocalError
from fewbits.rng import Key
from fewbits.topology.make import check_key, graph
from fewbits.topology.value import Topology

TRIES = 200  # most draws of a random graph until one is connected


def _networkx() -> ModuleType:
    try:
        import networkx
    except ImportError:
        raise LocalError("graphs by name need networkx; pip install 'fewbits[gossip]'") from None
    return networkx


def _named(found: Any, weights: str) -> Topology:
    """The topology of a networkx graph; nodes are numbered in their sorted order."""
    number = {node: i for i, node in enumerate(sorted(found.nodes))}
    return graph(len(number), [(number[a], number[b]) for a, b in found.edges], weights)


def _check_size(name: str, n: int, least: int = 2) -> None:
    if not isinstance(n, int) or n < least:
        raise LocalError(f"topology.{name}: needs {least} nodes or more; got {n!r}")


def ring(n: int, weights: str = "metropolis") -> Topology:
    """A ring: every node has two neighbours.

    Args:
        n: number of nodes, 2 or more.
        weights: "metropolis" or "uniform"; see `topology.graph`.

    Raises:
        LocalError: `n` is too small, `weights` has another value, or networkx is missing.

    >>> ring(5).neighbours(0)
    (1, 4)
    """
    _check_size("ring", n)
    return _named(_networkx().path_graph(2) if n == 2 else _networkx().cycle_graph(n), weights)


def torus(n: int, weights: str = "metropolis") -> Topology:
    """A torus: a grid with joined sides, nearly square; every node has four neighbours.

    Args:
        n: number of nodes, 4 or more: rows times columns.
        weights: "metropolis" or "uniform"; see `topology.graph`.

    Raises:
        LocalError: `n` is prime or too small, or networkx is missing.

    >>> torus(16).neighbours(5)
    (1, 4, 6, 9)
    """
    _check_size("torus", n, 4)
    rows = max(r for r in range(1, math.isqrt(n) + 1) if n % r == 0)
    if rows == 1:
        raise LocalError(f"topology.torus: {n} nodes form no grid; give rows times columns, such as {n + 1}, or a ring")
    return _named(_networkx().grid_2d_graph(rows, n // rows, periodic=True), weights)


def complete(n: int, weights: str = "metropolis") -> Topology:
    """A complete graph: every pair of nodes has an edge, and W = 1/n everywhere.

    Args:
        n: number of nodes, 2 or more.
        weights: "metropolis" or "uniform"; see `topology.graph`.

    Raises:
        LocalError: `n` is too small, `weights` has another value, or networkx is missing.

    >>> complete(4).weights.tolist()[0]
    [0.25, 0.25, 0.25, 0.25]
    """
    _check_size("complete", n)
    return _named(_networkx().complete_graph(n), weights)


def star(n: int, weights: str = "metropolis") -> Topology:
    """A star: node 0 is the only neighbour of every other node.

    Args:
        n: number of nodes, 2 or more.
        weights: "metropolis" or "uniform"; see `topology.graph`.

    Raises:
        LocalError: `n` is too small, `weights` has another value, or networkx is missing.

    >>> star(4).neighbours(2)
    (0,)
    """
    _check_size("star", n)
    return _named(_networkx().star_graph(n - 1), weights)


def hypercube(n: int, weights: str = "metropolis") -> Topology:
    """A hypercube: neighbours are the nodes whose numbers differ in one bit.

    Args:
        n: number of nodes, a power of two.
        weights: "metropolis" or "uniform"; see `topology.graph`.

    Raises:
        LocalError: `n` is no power of two.

    >>> hypercube(8).neighbours(5)
    (1, 4, 7)
    """
    _check_size("hypercube", n)
    if n & (n - 1):
        raise LocalError(f"topology.hypercube: n must be a power of two; got {n}")
    return graph(n, [(i, i ^ 1 << b) for i in range(n) for b in range(n.bit_length() - 1)], weights)


def exponential(n: int, weights: str = "metropolis") -> Topology:
    """An exponential graph: neighbours at distances 1, 2, 4, ... on a circle, in both directions.

    Args:
        n: number of nodes, 2 or more.
        weights: "metropolis" or "uniform"; see `topology.graph`.

    Raises:
        LocalError: `n` is too small, `weights` has another value, or networkx is missing.

    >>> exponential(8).neighbours(0)
    (1, 2, 4, 6, 7)

    Source: Ying et al. 2021 (arXiv 2110.13363). Their edges have a direction; ours have none, so that W is symmetric.
    """
    _check_size("exponential", n)
    steps = [1 << b for b in range((n - 1).bit_length()) if 1 << b <= n // 2] or [1]
    return _named(_networkx().circulant_graph(n, steps), weights)


def random_regular(n: int, degree: int = 4, key: Key = Key(0), weights: str = "metropolis") -> Topology:
    """A random connected graph: every node has `degree` neighbours.

    Args:
        n: number of nodes, 2 or more.
        degree: neighbours per node; n * degree must be even.
        key: the graph depends on this key alone.
        weights: "metropolis" or "uniform"; see `topology.graph`.

    Raises:
        LocalError: `degree` does not fit `n`, or no draw was connected.

    >>> len(random_regular(8, 3).neighbours(0))
    3
    """
    _check_size("random_regular", n)
    if not isinstance(degree, int) or not 1 <= degree < n or n * degree % 2:
        raise LocalError(f"topology.random_regular: needs 1 <= degree < n and n * degree even; got {degree}, n = {n}")
    return _connected(lambda nx, seed: nx.random_regular_graph(degree, n, seed=seed), key, weights, "random_regular")


def erdos_renyi(n: int, share: float = 0.3, key: Key = Key(0), weights: str = "metropolis") -> Topology:
    """A random connected graph: every pair of nodes has an edge with probability `share`.

    Args:
        n: number of nodes, 2 or more.
        share: probability of an edge, in (0, 1].
        key: the graph depends on this key alone.
        weights: "metropolis" or "uniform"; see `topology.graph`.

    Raises:
        LocalError: `share` is outside (0, 1], or none of 200 draws was connected.

    >>> erdos_renyi(8, 1.0) == complete(8)
    True

    Source: Gilbert 1959, G(n, p). We draw again until the graph is connected.
    """
    _check_size("erdos_renyi", n)
    check_number("topology.erdos_renyi: share", share, "(0, 1]", numpy=True)
    return _connected(lambda nx, seed: nx.gnp_random_graph(n, share, seed=seed), key, weights, "erdos_renyi")


def _connected(draw: Callable[[Any, int], Any], key: Key, weights: str, name: str) -> Topology:
    check_key(f"topology.{name}: key", key)
    nx = _networkx()
    for attempt in range(TRIES):
        found = draw(nx, key.fold("graph", attempt).word())
        if nx.is_connected(found):
            return _named(found, weights)
    raise LocalError(f"topology.{name}: none of {TRIES} draws was connected; ask for more edges")


def from_file(path: Path | str, weights: str = "metropolis") -> Topology:
    """A graph from a text file: two node numbers per line, from 0; `#` begins a comment.

    Args:
        path: the file.
        weights: "metropolis" or "uniform"; see `topology.graph`.

    Raises:
        LocalError: the file cannot be read, or a line is no edge; the message names the line.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "edges.txt"
    >>> _ = path.write_text("0 1\\n1 2\\n2 0\\n")
    >>> from_file(path) == ring(3)
    True
    """
    path = Path(path)
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LocalError(f"topology.from_file: {path} cannot be read: {error}") from None
    edges = [_edge(path, number, line) for number, line in enumerate(lines, 1) if line.partition("#")[0].strip()]
    if not edges:
        raise LocalError(f"topology.from_file: {path} has no edge")
    return graph(1 + max(map(max, edges)), edges, weights)


def _edge(path: Path, number: int, line: str) -> tuple[int, int]:
    try:
        i, j = map(int, line.partition("#")[0].split())
    except ValueError:
        raise LocalError(f"{path}, line {number}: expected two node numbers; got {line[:60]!r}") from None
    if i < 0 or j < 0 or i == j or max(i, j) > 1_000_000:
        raise LocalError(f"{path}, line {number}: an edge joins two different nodes, 0 or above; got {i} and {j}")
    return i, j


NAMED: dict[str, Callable[..., Topology]] = {
    "ring": ring,
    "torus": torus,
    "complete": complete,
    "star": star,
    "hypercube": hypercube,
    "exponential": exponential,
    "random_regular": random_regular,
    "erdos_renyi": erdos_renyi,
}


def by_name(text: str, n: int, key: Key = Key(0), weights: str = "metropolis") -> Topology:
    """A graph from text, as on the command line.

    Args:
        text: a name, random_regular:DEGREE, erdos_renyi:SHARE or file:PATH.
        n: number of nodes; a file must have the same.
        key: a random graph depends on this key alone.
        weights: "metropolis" or "uniform"; see `topology.graph`.

    Raises:
        LocalError: no such graph exists, or its number of nodes is not `n`.

    >>> by_name("random_regular:3", 8).neighbours(0) == random_regular(8, 3).neighbours(0)
    True
    """
    name, colon, value = text.partition(":")
    if name == "file" and value:
        found = from_file(value, weights)
        if found.n != n:
            raise LocalError(f"topology: {value} has nodes 0..{found.n - 1}; expected {n} nodes")
        return found
    kinds = {"random_regular": int, "erdos_renyi": float}
    if name not in NAMED or (colon and name not in kinds):
        raise unknown("topology", text, NAMED, ", or file:PATH")
    if name not in kinds:
        return NAMED[name](n, weights=weights)
    try:
        given = [kinds[name](value)] if colon else []
    except ValueError:
        raise LocalError(f"topology {text!r}: expected a number after the colon") from None
    return NAMED[name](n, *given, key=key, weights=weights)


def layout(found: Topology, key: Key = Key(0)) -> np.ndarray:
    """Positions of the nodes in a picture: a circle up to 12 nodes, else a spring layout.  # (n, 2) float64

    >>> layout(ring(4)).shape
    (4, 2)
    """
    nx = _networkx()
    drawn = nx.Graph(list(found.edges))
    drawn.add_nodes_from(range(found.n))
    if found.n <= 12:
        positions = nx.circular_layout(sorted(drawn.nodes))
    else:
        positions = nx.spring_layout(drawn, seed=key.word() % 2**32, iterations=200)
    return np.array([positions[i] for i in range(found.n)], np.float64)
