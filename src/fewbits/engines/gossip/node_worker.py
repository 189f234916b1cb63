"""NodeWorker: runs some of the nodes, one after the other, on one model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fewbits.engines.common.task import evaluation_noise, training_guard
from fewbits.engines.gossip.evaluator import score_on_test
from fewbits.engines.gossip.setup import GossipSetup
from fewbits.engines.gossip.shared_vectors import SharedVectors
from fewbits.engines.gossip.trainer import StepReport, Trainer
from fewbits.errors import WireError
from fewbits.factor.derived import duplicate
from fewbits.learn.evaluation import Scores
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.gossip import Node
from fewbits.learn.gossip.neighbour_watch import LeftOut


class Mixed(NamedTuple):
    """What came of one node's mixing."""

    zeros: int  # parameters that are exactly zero
    left_out: list[LeftOut]


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
        self.vectors.put_frame(node.me, frame, node.sender.snapshot())
        return report

    def mix(self, lengths: Mapping[int, int]) -> list[Mixed]:
        """Let every node receive its neighbours' frames and mix."""
        return [self._mix(node, lengths) for node in self.nodes.values()]

    def _mix(self, node: Node, lengths: Mapping[int, int]) -> Mixed:
        for j in node.expected:
            self._receive(node, j, self.vectors.frame(j, lengths[j]))
        for j in sorted(node.wanted):
            self._receive(node, j, self.vectors.key_frame(j))
        node.mix()
        parameters = self.vectors.x[node.me][: len(self.model.params)]
        return Mixed(len(parameters) - int(torch.count_nonzero(parameters)), node.watch.taken())

    def _receive(self, node: Node, j: int, frame: bytes | memoryview) -> None:
        """Give a frame to a node; one that is of no use is left out, and so is one that only a key frame replaces."""
        try:
            node.receive(j, frame)
        except WireError as error:
            if j not in node.wanted:
                node.leave_out(j, str(error))

    def evaluate(self) -> list[Scores]:
        """The sums of each node's own model over the test set."""
        found = []
        for i in self.nodes:
            self.trainer.local_tensors.restore_all()  # an evaluation may change them, too
            self.model.load_vector(self.vectors.x[i])
            with evaluation_noise(self.task, self.trainer.key, self.model, "node", i):
                found.append(score_on_test(self.model, self.task))
        return found
