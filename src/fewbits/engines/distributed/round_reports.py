"""RoundReports: step reports and models travel to rank 0, which counts frames and writes the metrics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fewbits.engines.common.logs import append_metrics
from fewbits.engines.distributed.collect import collect
from fewbits.engines.distributed.world import World
from fewbits.engines.gossip.count_frames import count_frames
from fewbits.engines.gossip.evaluator import Evaluator, ModelMeasures
from fewbits.engines.gossip.report import GossipReport
from fewbits.engines.gossip.setup import GossipSetup
from fewbits.engines.gossip.shared_vectors import average, distance
from fewbits.engines.gossip.trainer import StepReport
from fewbits.learn.gossip import Node
from fewbits.learn.local import evaluate
from fewbits.links import Ledger

MAX_BYTES = 2**20  # of one node's step report


class RoundReports:
    """Collects at rank 0. Models travel only in evaluated rounds; the ledger does not count their bytes."""

    def __init__(self, world: World, node: Node, setup: GossipSetup, folder: Path | None) -> None:
        self._world, self._node, self._setup, self._folder = world, node, setup, folder
        self._evaluator = Evaluator(setup.task, setup.method) if world.rank == 0 else None
        self._last_steps: list[StepReport] = []  # of the last collected round, at rank 0
        self._steps: list[list[dict[str, object]]] = []  # this node's, of rounds since the last collection
        self.reports: list[GossipReport] = []  # of evaluated rounds, at rank 0
        self.notes: list[str] = []  # what nodes said of tensors that do not travel, at rank 0
        self.models: Tensor | None = None  # (n, P+B) float32 of the last evaluated round, at rank 0

    def add(self, steps: Sequence[StepReport]) -> None:
        """Keep this node's step report of a round; none when it was inactive."""
        self._steps.append([step.asdict() for step in steps])

    def collect(self, round: int, evaluated: bool, ledger: Ledger) -> ModelMeasures | None:
        """Collect the rounds since the last collection and count their frames; at rank 0, the models' measures.

        None: another rank, or a round without evaluation.
        """
        message = {"rounds": self._steps, "accuracy": self._accuracy() if evaluated else None}
        texts = collect(self._world, json.dumps(message).encode(), MAX_BYTES * len(self._steps))
        self._steps = []
        x = self._node.vectors.x
        models = collect(self._world, memoryview(x.numpy().data).cast("B"), x.nbytes) if evaluated else []
        if self._world.rank:
            return None
        messages = [json.loads(bytes(text)) for text in texts]
        self._count(round, [message["rounds"] for message in messages], ledger)
        if not evaluated:
            return None
        self.models = torch.stack([torch.frombuffer(model, dtype=torch.float32) for model in models])
        return self._measures(self.models, [message["accuracy"] for message in messages])

    def _count(self, round: int, by_node: list[list[list[dict]]], ledger: Ledger) -> None:
        rounds = [[StepReport(**step) for steps in nodes for step in steps] for nodes in zip(*by_node, strict=True)]
        for number, steps in enumerate(rounds, round - len(rounds) + 1):
            count_frames(ledger, self._setup.network, number, steps)
            self.notes += dict.fromkeys(x for step in steps for x in step.remarks if x not in self.notes)
        self._last_steps = rounds[-1]

    def _measures(self, models: Tensor, accuracies: list[float | None]) -> ModelMeasures:
        assert self._evaluator is not None
        shared, parameters = self.shared(models), len(self._node.flat.params)
        mean = average(shared)
        zeros = sum(parameters - int(torch.count_nonzero(model[:parameters])) for model in models)
        known = [accuracy for accuracy in accuracies if accuracy is not None]
        return ModelMeasures(
            zeros / (parameters * self._setup.network.n),
            distance(shared, mean),
            self._evaluator(mean),
            known if len(known) == len(accuracies) else None,
        )

    def write(self, round: int, measures: ModelMeasures, ledger: Ledger, seconds: float) -> GossipReport:
        """Add the report of an evaluated round, at rank 0."""
        topology = self._setup.network.at(round)
        report = GossipReport.of(round, self._last_steps, measures, topology, ledger, seconds)
        self.reports.append(report)
        if self._folder is not None:
            append_metrics(self._folder, vars(report))
        return report

    def shared(self, models: Tensor) -> Tensor:
        """The shared numbers of each model.  # (n, S)"""
        first = len(self._node.flat.private[0])
        return models[:, first : first + len(self._node.flat.shared)]

    def _accuracy(self) -> float | None:
        """The accuracy of this node's own model on the test set."""
        task = self._setup.task
        if task.test_x is None or task.test_y is None:
            return None
        return evaluate(self._node.flat, task.test_x, task.test_y, loss=task.loss or cross_entropy)[0]
