"""A round of nodes without an engine, on quadratic problems with a known minimum."""

import copy
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from fewbits import Key
from fewbits.learn import GossipMethod, Node
from fewbits.learn.flat_model import FlatModel
from fewbits.topology import Network

KEY = Key(3)
DIM = 20


class Point(nn.Module):
    """A vector; the loss of node i is |x - target_i|^2 / 2."""

    def __init__(self, dim: int = DIM) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.from_numpy(KEY.fold("start").normal(dim)))


def targets(n: int, dim: int = DIM) -> Tensor:
    """Each node's minimum.  # (n, dim)"""
    return torch.from_numpy(KEY.fold("targets").normal(n * dim)).view(n, dim)


def pull(target: Tensor, lr: float) -> Callable[[FlatModel], float]:
    """One gradient step."""

    def train(model: FlatModel) -> float:
        model.params.sub_(lr * (model.params - target))
        return lr

    return train


def rest(_: FlatModel) -> float:
    """No local step, so that a round is only gossip."""
    return 0.1


def nodes(method: GossipMethod, network: Network, memory: str | None = None, model: nn.Module | None = None):
    """All nodes of a network, each with a model of its own."""
    model = model or Point()
    return [Node(copy.deepcopy(model), method, network, i, KEY, memory) for i in range(network.n)]


def scatter(found: list[Node]) -> None:
    """Give every node another model."""
    for node in found:
        node.vectors.x.copy_(torch.from_numpy(KEY.fold("scatter", node.me).normal(len(node.vectors.x))))


def play(found: list[Node], trains: Callable[[int], Callable[[FlatModel], float]]) -> Mapping[int, bytes]:
    """One round; returns the frames."""
    frames = {node.me: node.step(trains(node.me)) for node in found if node.active}
    for node in found:
        for j in node.expected:
            node.receive(j, frames[j])
        node.mix()
    return frames


def models(found: list[Node]) -> np.ndarray:
    """All nodes' models.  # (n, dim)"""
    return torch.stack([node.vectors.x for node in found]).numpy()
