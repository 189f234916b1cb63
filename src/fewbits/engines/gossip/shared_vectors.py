"""SharedVectors: the vectors of all nodes and the frames of a round, in memory that the processes share."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fewbits.errors import LocalError
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.gossip import GossipMethod, Vectors
from fewbits.topology import Network

MARGIN = 64 * 1024  # bytes of a slot beyond twice the dense size: headers and side information


class SharedVectors:
    """Three or four vectors per node, whatever its degree; make it before forking.

    Where weights change, a node needs its neighbours' public vectors one by one. Those are, bit for bit, the
    neighbours' own, which lie here already: they are lent instead of being kept again.
    """

    def __init__(self, model: FlatModel, method: GossipMethod, network: Network, path: Path | None = None) -> None:
        """`path`: a file to map the vectors from, so that the system may move them to disk; None: memory."""
        n, whole, shared = network.n, len(model.whole), len(model.shared)
        self._network, self._lent = network, method.residual and not network.fixed
        sizes = [whole, shared, shared, shared if method.momentum else 0]
        memory = _map(4 * n * sum(sizes), path)
        every = torch.frombuffer(memory, dtype=torch.float32)
        pieces = torch.split(every[: n * sum(sizes)], [n * size for size in sizes])
        # (n, P+B), then (n, S) each, the last (n, 0) without momentum
        self.x, self.public, self.mixture, self.velocity = (p.view(n, s) for p, s in zip(pieces, sizes, strict=True))
        self._slot = 8 * shared + MARGIN
        self._frames = _map(n * self._slot, None)  # pages are only taken when they are written

    def named(self) -> dict[str, Tensor]:
        """All vectors, for a checkpoint."""
        found = {"x": self.x, "public": self.public, "mixture": self.mixture, "velocity": self.velocity}
        return {f"rows.{name}": tensor for name, tensor in found.items()}

    def vectors(self, i: int) -> Vectors:
        """Node i's."""
        copies = {j: self.public[j] for j in self._network.neighbours(i)} if self._lent else {}
        return Vectors(self.x[i], self.public[i], self.mixture[i], self.velocity[i], copies, lent=self._lent)

    def put(self, i: int, frame: bytes) -> None:
        """Post node i's frame of this round."""
        if len(frame) > self._slot:
            raise LocalError(f"node {i}: {len(frame)} bytes of frame are over twice the dense model; use another codec")
        self._frames[i * self._slot : i * self._slot + len(frame)] = frame

    def frame(self, i: int, length: int) -> memoryview:
        """Node i's frame of this round."""
        return memoryview(self._frames)[i * self._slot : i * self._slot + length]


def _map(size: int, path: Path | None) -> mmap.mmap:
    if path is None:
        return mmap.mmap(-1, max(1, size))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w+b") as file:
        file.truncate(max(1, size))
        return mmap.mmap(file.fileno(), max(1, size))


def distance(rows: Tensor, mean: Tensor) -> float:
    """The consensus distance |X - mean|_F.  # (n, S), (S,)"""
    return float(sum((row - mean).square().sum(dtype=torch.float64) for row in rows)) ** 0.5


def average(rows: Sequence[Tensor] | Tensor) -> Tensor:
    """The mean, summed in the nodes' order in float64, so that it does not depend on anything else.  # (S,) float32"""
    total = torch.zeros(len(rows[0]), dtype=torch.float64)
    for row in rows:
        total += row
    return (total / len(rows)).float()
