"""Vectors: all that a node remembers of models, in memory that may belong to somebody else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fewbits.checks import check_one_of
from fewbits.errors import LocalError
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.gossip.method import GossipMethod
from fewbits.topology import Network

MEMORIES = ("two", "copies")


@dataclass(frozen=True, eq=False)
class Vectors:
    """A node's model and what it holds of others, in float32, changed in place by `Node` alone.

    P: parameters, B: float buffers, S: those of both that travel. Two-vector form: `public` and `mixture` are all that
    is kept, whatever the degree; it needs weights that never change. Under weights that do, the mixture has to be
    summed anew, from a copy of each neighbour's public vector.
    """

    x: Tensor  # (P+B,) the model, laid out as FlatModel.whole; between step and mix, x_half
    public: Tensor  # (S,) xhat_i: what the neighbours hold of this node
    mixture: Tensor  # (S,) sum over neighbours j of w_ij xhat_j
    velocity: Tensor  # (S,) the momentum; (0,) without
    copies: Mapping[int, Tensor] = field(default_factory=dict)  # xhat_j by neighbour, (S,) each; two-vector: none
    lent: bool = False  # the copies are the neighbours' own public vectors, which they keep up to date

    @staticmethod
    def fresh(model: FlatModel, method: GossipMethod, network: Network, me: int, memory: str | None = None) -> Vectors:
        """In memory of its own, `x` being the model's; memory: "two" or "copies" (None: "two" where it will do)."""
        size = len(model.shared)
        copied = need(method, network, memory) == "copies"
        return Vectors(
            model.whole,
            torch.zeros(size),
            torch.zeros(size),
            torch.zeros(size if method.momentum else 0),
            {j: torch.zeros(size) for j in network.neighbours(me)} if copied else {},
        )


def need(method: GossipMethod, network: Network, memory: str | None = None) -> str:
    """The form of memory: as asked for, or the two-vector form wherever it will do; LocalError when it will not."""
    if memory is not None:
        check_one_of("memory", memory, MEMORIES)
    will_do = network.fixed or not method.residual
    if memory == "two" and not will_do:
        raise LocalError(
            'memory="two" holds the sum of the neighbours\' vectors under fixed weights; nodes that fall asleep and '
            'graphs that change need memory="copies", one vector per neighbour'
        )
    return memory or ("two" if will_do else "copies")
