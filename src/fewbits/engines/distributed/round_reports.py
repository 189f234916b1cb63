"""RoundReports: step reports and models travel to rank 0, which counts frames and writes the metrics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewbits.engines.common.failed_turn import Notes
from fewbits.engines.common.logs import append_metrics
from fewbits.engines.common.task import evaluation_noise
from fewbits.engines.distributed.collect import collect
from fewbits.engines.distributed.world import World
from fewbits.engines.gossip.count_frames import count_frames
from fewbits.engines.gossip.evaluator import Evaluator, ModelMeasures, score_on_test
from fewbits.engines.gossip.report import GossipReport, check_first, sentences
from fewbits.engines.gossip.setup import GossipSetup
from fewbits.engines.gossip.shared_vectors import average, distance
from fewbits.engines.gossip.trainer import StepReport
from fewbits.json_text import json_text
from fewbits.learn.evaluation import Scores
from fewbits.learn.gossip import Node
from fewbits.learn.gossip.neighbour_watch import LeftOut
from fewbits.learn.local_tensors import LocalTensors
from fewbits.links import Ledger

MAX_BYTES = 2**20  # of one node's step report


class RoundReports:
    """Collects at rank 0. Models travel only in evaluated rounds; the ledger does not count their bytes."""

    def __init__(
        self, world: World, node: Node, local_tensors: LocalTensors, setup: GossipSetup, folder: Path | None
    ) -> None:
        self._local_tensors = local_tensors  # of the node's model
        self._world, self._node, self._setup, self._folder = world, node, setup, folder
        self._evaluator = Evaluator(setup.task, setup.method, setup.key) if world.rank == 0 else None
        self._last_steps: list[StepReport] = []  # of the last collected round, at rank 0
        self._rounds: list[dict[str, list[Any]]] = []  # this node's, of rounds since the last collection
        self.reports: list[GossipReport] = []  # of evaluated rounds, at rank 0
        self.notes: list[str] = []  # sentences about faults, at rank 0
        self._said = Notes()
        self._unreported: list[str] = []  # notes of rounds since the last report
        self._skipped = self._left_out = 0  # steps that were not taken in these rounds, and frames
        self.models: Tensor | None = None  # (n, P+B) float32 of the last evaluated round, at rank 0

    def resume(self, reports: list[GossipReport]) -> None:
        """Continue after these reports."""
        said = [note for report in reports for note in report.notes]
        self.reports, self.notes, self._said = reports, said, Notes(said)

    def add(self, steps: Sequence[StepReport]) -> None:
        """Keep this node's step report of a round, none when it was inactive, and which frames it left out."""
        taken = [step.asdict() for step in steps]
        self._rounds.append({"steps": taken, "left_out": [*map(list, self._node.watch.taken())]})

    def collect(self, round: int, evaluated: bool, ledger: Ledger) -> ModelMeasures | None:
        """Collect the rounds since the last collection and count their frames; at rank 0, the models' measures.

        None: another rank, or a round without evaluation.
        """
        message = {"rounds": self._rounds, "scores": self._scores() if evaluated else None}
        texts = collect(self._world, json_text(message).encode(), MAX_BYTES * len(self._rounds))
        self._rounds = []
        x = self._node.vectors.x
        models = collect(self._world, memoryview(x.numpy().data).cast("B"), x.nbytes) if evaluated else []
        if self._world.rank:
            return None
        messages = [json.loads(bytes(text)) for text in texts]
        self._count(round, [message["rounds"] for message in messages], ledger)
        if not evaluated:
            return None
        self.models = torch.stack([torch.frombuffer(model, dtype=torch.float32) for model in models])
        return self._measures(self.models, [Scores(*m["scores"]) for m in messages if m["scores"] is not None])

    def _count(self, round: int, by_node: list[list[dict[str, list[Any]]]], ledger: Ledger) -> None:
        rounds = list(zip(*by_node, strict=True))
        for number, nodes in enumerate(rounds, round - len(rounds) + 1):
            steps = [StepReport(**step) for node in nodes for step in node["steps"]]
            left_out = [LeftOut(*each) for node in nodes for each in node["left_out"]]
            check_first(number, steps, self._setup.task)
            count_frames(ledger, self._setup.network, number, steps)
            self._skipped += sum(bool(step.trouble) for step in steps)
            self._left_out += len(left_out)
            self._unreported += self._said.new(sentences(number, steps, left_out))
            self.notes += dict.fromkeys(x for step in steps for x in step.remarks if x not in self.notes)
            self._last_steps = steps

    def _measures(self, models: Tensor, scores: list[Scores]) -> ModelMeasures:
        assert self._evaluator is not None
        shared, parameters = self.shared(models), len(self._node.flat.params)
        mean = average(shared)
        zeros = sum(parameters - int(torch.count_nonzero(model[:parameters])) for model in models)
        evaluation, of_mean = self._evaluator(mean)
        return ModelMeasures(
            zeros / (parameters * self._setup.network.n),
            distance(shared, mean),
            evaluation,
            scores,
            of_mean,
            self._setup.task.metric_name,
        )

    def write(self, round: int, measures: ModelMeasures, ledger: Ledger, seconds: float) -> GossipReport:
        """Add the report of an evaluated round, at rank 0."""
        topology = self._setup.network.at(round)
        notes, self._unreported = self._unreported + self._said.new(measures.sentences(round)), []
        report = GossipReport.of(round, self._last_steps, measures, topology, ledger, seconds, notes)
        report = replace(report, skipped=self._skipped, left_out=self._left_out)
        self._skipped = self._left_out = 0
        self.notes += notes
        self.reports.append(report)
        if self._folder is not None:
            append_metrics(self._folder, vars(report))
        return report

    def shared(self, models: Tensor) -> Tensor:
        """The shared numbers of each model.  # (n, S)"""
        first = len(self._node.flat.private[0])
        return models[:, first : first + len(self._node.flat.shared)]

    def _scores(self) -> Scores | None:
        """The sums of this node's own model over the test set; None: there is no test set."""
        task = self._setup.task
        if task.test is None:
            return None
        self._local_tensors.restore_all()
        with evaluation_noise(task, self._setup.key, self._node.flat, "node", self._node.me):
            return score_on_test(self._node.flat, task)
