"""NodeWorker: plays some of the nodes, one after the other, on one model."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fewbits.engines.common.task import Task
from fewbits.engines.gossip.shared_vectors import SharedVectors
from fewbits.engines.gossip.trainer import Sent, Trainer
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.gossip import GossipMethod, Node
from fewbits.learn.local import evaluate
from fewbits.rng import Key
from fewbits.topology import Network


class NodeWorker:
    """Nodes `number`, `number + count`, ... of the network."""

    def __init__(
        self,
        task: Task,
        method: GossipMethod,
        network: Network,
        key: Key,
        rows: SharedVectors,
        number: int = 0,
        count: int = 1,
    ) -> None:
        self.task, self.rows = task, rows
        self.model = FlatModel(copy.deepcopy(task.model))
        self.trainer = Trainer(task, key, self.model)
        start = self.model.vector()
        self.nodes: dict[int, Node] = {}
        for i in range(number, network.n, count):
            self.model.load_vector(start)
            self.nodes[i] = Node(self.model, method, network, i, key, vectors=rows.vectors(i))

    def load(self, ends: Mapping[str, Tensor]) -> None:
        """Take up the ends of links that `dump` gave; the vectors are in the rows already."""
        for i, node in self.nodes.items():
            start = f"node.{i}."
            node.load({name.removeprefix(start): x for name, x in ends.items() if name.startswith(start)})

    def dump(self) -> dict[str, Tensor]:
        """All that is not in the rows."""
        dumped = {i: node.dump(vectors=False) for i, node in self.nodes.items()}
        return {f"node.{i}.{name}": x for i, found in dumped.items() for name, x in found.items()}

    def step(self) -> list[Sent]:
        """Every waking node trains and posts its frame."""
        return [self._step(node) for node in self.nodes.values() if node.awake]

    def _step(self, node: Node) -> Sent:
        frame, sent = self.trainer.step(node)
        self.rows.put(node.me, frame)
        return sent

    def mix(self, lengths: Mapping[int, int]) -> list[int]:
        """Every node hears its neighbours and mixes; returns how many of its parameters are zero, node by node."""
        zeros = []
        for i, node in self.nodes.items():
            for j in node.expected:
                node.receive(j, self.rows.frame(j, lengths[j]))
            node.mix()
            zeros.append(len(self.model.params) - int(torch.count_nonzero(self.rows.x[i][: len(self.model.params)])))
        return zeros

    def evaluate(self) -> list[tuple[float, float]]:
        """(accuracy, mean loss) of each node's own model on the test set."""
        assert self.task.test_x is not None and self.task.test_y is not None
        found = []
        for i in self.nodes:
            self.model.load_vector(self.rows.x[i])
            judged = evaluate(self.model, self.task.test_x, self.task.test_y, loss=self.task.loss or cross_entropy)
            found.append(judged)
        return found
