"""Vectors: the model vectors in a node's memory; an engine may provide that memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fewbits.checks import check_one_of
from fewbits.errors import LocalError
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.gossip.method import GossipMethod
from fewbits.topology import Network

MEMORIES = ("two", "copies")
COPY = "vector.copy."  # how the names of copies in a dump begin


@dataclass(frozen=True, eq=False)
class Vectors:
    """A node's model, public vector, mixture and momentum, in float32; only `Node` changes them.

    P: number of parameters, B: of float buffers, S: of shared numbers among both. With fixed weights, a node needs only
    `public` and `mixture`, whatever its degree. With changing weights, it sums the mixture again in every round, from a
    copy of each neighbour's public vector.
    """

    x: Tensor  # (P+B,) the model, in the layout of FlatModel.whole; x_half between step and mix
    public: Tensor  # (S,) xhat_i, which all neighbours know
    mixture: Tensor  # (S,) sum over neighbours j of w_ij xhat_j
    velocity: Tensor  # (S,) momentum; (0,) without momentum
    copies: dict[int, Tensor] = field(default_factory=dict)  # xhat_j (S,) by neighbour; empty with fixed weights
    borrowed: set[int] = field(default_factory=set)  # whose copy is its public vector itself, in shared memory

    @staticmethod
    def fresh(model: FlatModel, method: GossipMethod, network: Network, me: int, memory: str | None = None) -> Vectors:
        """New vectors; `x` is the model's. `memory`: "two", "copies" or None, see `memory_form`."""
        size = len(model.shared)
        copied = memory_form(method, network, memory) == "copies" and method.residual
        return Vectors(
            model.whole,
            torch.zeros(size),
            torch.zeros(size),
            torch.zeros(size if method.momentum else 0),
            {j: torch.zeros(size) for j in network.neighbours(me)} if copied else {},
        )

    def private_copy(self, j: int) -> Tensor:
        """This node's own copy of neighbour j's public vector, borrowed no longer."""
        if j in self.borrowed:
            self.borrowed.discard(j)
            self.copies[j] = self.copies[j].clone()
        return self.copies[j]

    def named(self) -> dict[str, Tensor]:
        """The node's own vectors by name, for a dump."""
        return {f"vector.{name}": getattr(self, name) for name in ("x", "public", "mixture", "velocity")}

    def private_copies(self) -> dict[str, Tensor]:
        """The copies that are not borrowed, likewise."""
        return {f"{COPY}{j}": x for j, x in self.copies.items() if j not in self.borrowed}


def memory_form(method: GossipMethod, network: Network, memory: str | None = None) -> str:
    """The form of memory: `memory`, or "two" where fixed weights allow it. LocalError when they do not."""
    if memory is not None:
        check_one_of("memory", memory, MEMORIES)
    two_suffice = network.fixed or not method.residual
    if memory == "two" and not two_suffice:
        raise LocalError(
            'memory="two" keeps the sum of the neighbours\' vectors under fixed weights; inactive nodes and changing '
            'graphs need memory="copies", one vector per neighbour'
        )
    return memory or ("two" if two_suffice else "copies")
