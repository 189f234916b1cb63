"""SharedVectors: the vectors of all nodes and the frames of a round, in memory that the processes share."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fewbits.errors import LocalError
from fewbits.files import placed
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.gossip import GossipMethod, Vectors, key_frame
from fewbits.topology import Network
from fewbits.wire.frame import HEADER_BYTES

MARGIN = 64 * 1024  # bytes of a frame's slot beyond twice the dense size: header and side information


class SharedVectors:
    """Three or four vectors per node, whatever its degree; create it before forking.

    With changing weights, a node needs each neighbour's public vector. The neighbours' own public vectors are equal to
    such copies bit for bit and are in this memory already, so nodes read those.
    """

    def __init__(self, model: FlatModel, method: GossipMethod, network: Network, path: Path | None = None) -> None:
        """`path`: a file to map the vectors from, so that the system may move them to disk; None: memory."""
        n, whole, shared = network.n, len(model.whole), len(model.shared)
        self._network, self._borrowed = network, method.residual and not network.fixed
        sizes = [whole, shared, shared, shared if method.momentum else 0]
        memory = _map(4 * n * sum(sizes), path)
        numbers = torch.frombuffer(memory, dtype=torch.float32)
        pieces = torch.split(numbers[: n * sum(sizes)], [n * size for size in sizes])
        # (n, P+B), then (n, S) each; velocity is (n, 0) without momentum
        self.x, self.public, self.mixture, self.velocity = (p.view(n, s) for p, s in zip(pieces, sizes, strict=True))
        self._slot = 8 * shared + MARGIN
        self._frames = _map(n * self._slot, None)  # the system allocates pages when they are written
        self._snapshots = _map(n * HEADER_BYTES, None)  # of links without a state

    def named(self) -> dict[str, Tensor]:
        """All vectors by name, for a checkpoint."""
        found = {"x": self.x, "public": self.public, "mixture": self.mixture, "velocity": self.velocity}
        return {f"vectors.{name}": tensor for name, tensor in found.items()}

    def of_node(self, i: int) -> Vectors:
        """Node i's vectors."""
        copies = {j: self.public[j] for j in self._network.neighbours(i)} if self._borrowed else {}
        return Vectors(self.x[i], self.public[i], self.mixture[i], self.velocity[i], copies, set(copies))

    def put_frame(self, i: int, frame: bytes, snapshot: bytes) -> None:
        """Write node i's frame of this round, and the snapshot of its sender after it."""
        if len(frame) > self._slot:
            raise LocalError(
                f"node {i}: its frame of {len(frame)} bytes is over twice the dense model; use another codec"
            )
        self._frames[i * self._slot : i * self._slot + len(frame)] = frame
        self._snapshots[i * len(snapshot) : (i + 1) * len(snapshot)] = snapshot

    def frame(self, i: int, length: int) -> memoryview:
        """Node i's frame of this round."""
        return memoryview(self._frames)[i * self._slot : i * self._slot + length]

    def key_frame(self, i: int) -> bytes:
        """Node i's key frame of this round."""
        return key_frame.write(self._snapshots[i * HEADER_BYTES : (i + 1) * HEADER_BYTES], self.public[i])


def _map(size: int, path: Path | None) -> mmap.mmap:
    if path is None:
        with placed("memory that the nodes share"):
            return mmap.mmap(-1, max(1, size))
    with placed(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with placed(path), path.open("w+b") as file:
        file.truncate(max(1, size))
        if hasattr(os, "posix_fallocate"):  # a full disk is found here, not by a signal in the middle of a round
            os.posix_fallocate(file.fileno(), 0, max(1, size))
        return mmap.mmap(file.fileno(), max(1, size))


def distance(models: Tensor, mean: Tensor) -> float:
    """The consensus distance |X - mean|_F.  # (n, S), (S,)"""
    return float(sum((model - mean).square().sum(dtype=torch.float64) for model in models)) ** 0.5


def average(models: Sequence[Tensor] | Tensor) -> Tensor:
    """The mean model, summed in float64 in the nodes' order, so that every engine gives the same bits.  # (S,)"""
    total = torch.zeros(len(models[0]), dtype=torch.float64)
    for model in models:
        total += model
    return (total / len(models)).float()
