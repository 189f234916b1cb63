"""NodeWorker: runs some of the nodes, one after the other, on one model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fewbits.engines.common.task import evaluation_noise, training_guard
from fewbits.engines.gossip.evaluator import score_on_test
from fewbits.engines.gossip.setup import GossipSetup
from fewbits.engines.gossip.shared_vectors import SharedVectors
from fewbits.engines.gossip.trainer import StepReport, Trainer
from fewbits.factor.derived import duplicate
from fewbits.learn.evaluation import Scores
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.gossip import Node


class NodeWorker:
    """Nodes `number`, `number + count`, ... of the network."""

    def __init__(self, setup: GossipSetup, vectors: SharedVectors, number: int = 0, count: int = 1) -> None:
        self.task, self.vectors = setup.task, vectors
        self.model = FlatModel(duplicate(setup.task.model))
        self.trainer = Trainer(setup.task, setup.key, self.model)
        self.nodes: dict[int, Node] = {}
        start = self.model.vector()
        for i in range(number, setup.network.n, count):
            self.model.load_vector(start)
            self.nodes[i] = Node(self.model, setup.method, setup.network, i, setup.key, vectors=vectors.of_node(i))

    def load(self, links: Mapping[str, Tensor]) -> None:
        """Restore the link states that `dump` returned; the vectors are in shared memory already."""
        for i, node in self.nodes.items():
            prefix = f"node.{i}."
            node.load({name.removeprefix(prefix): x for name, x in links.items() if name.startswith(prefix)})

    def dump(self) -> dict[str, Tensor]:
        """The nodes' state without the vectors."""
        dumped = {i: node.dump(vectors=False) for i, node in self.nodes.items()}
        return {f"node.{i}.{name}": x for i, state in dumped.items() for name, x in state.items()}

    def step(self) -> list[StepReport]:
        """Train every active node and write its frame to shared memory."""
        with training_guard(self.task, self.model):
            return [self._step(node) for node in self.nodes.values() if node.active]

    def _step(self, node: Node) -> StepReport:
        frame, report = self.trainer.step(node)
        self.vectors.put_frame(node.me, frame)
        return report

    def mix(self, lengths: Mapping[int, int]) -> list[int]:
        """Let every node receive its neighbours' frames and mix; returns each node's number of zero parameters."""
        zeros = []
        for i, node in self.nodes.items():
            for j in node.expected:
                node.receive(j, self.vectors.frame(j, lengths[j]))
            node.mix()
            parameters = self.vectors.x[i][: len(self.model.params)]
            zeros.append(len(parameters) - int(torch.count_nonzero(parameters)))
        return zeros

    def evaluate(self) -> list[Scores]:
        """The sums of each node's own model over the test set."""
        found = []
        for i in self.nodes:
            self.model.load_vector(self.vectors.x[i])
            with evaluation_noise(self.task, self.trainer.key, self.model, "node", i):
                found.append(score_on_test(self.model, self.task))
        return found
