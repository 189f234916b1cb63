"""GossipRun: rounds of all nodes on one machine; every frame is really encoded, sent, decoded and counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fewbits.engines.common import checkpoint
from fewbits.engines.common.failed_turn import Notes
from fewbits.engines.common.first_batch import check_first_batch
from fewbits.engines.common.logs import LEDGER, append_metrics, resume_logs, sync_logs
from fewbits.engines.common.run_files import check_one_run
from fewbits.engines.common.run_lock import RunLock
from fewbits.engines.common.same_run import NEWEST, check_same_run
from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Task
from fewbits.engines.common.task_identity import model_digest
from fewbits.engines.gossip.count_frames import count_frames
from fewbits.engines.gossip.evaluator import Evaluator, ModelMeasures
from fewbits.engines.gossip.node_pool import NodePool
from fewbits.engines.gossip.report import GossipReport, check_first, sentences, totals
from fewbits.engines.gossip.result import GossipResult
from fewbits.engines.gossip.setup import GossipSetup
from fewbits.engines.gossip.shared_vectors import SharedVectors, average, distance
from fewbits.errors import LocalError
from fewbits.files import placed
from fewbits.learn import shared_values
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.gossip import GossipMethod, tuned
from fewbits.learn.private_generators import unreachable
from fewbits.links import Ledger
from fewbits.rng import Key
from fewbits.topology import Network

VECTORS = "vectors.bin"


class GossipRun:
    """A run of all nodes on one machine; iterate over it for its reports.

    Args:
        task: model and data, with one part per node.
        method: the method of all nodes.
        network: the graph of every round.
        schedule: rounds, evaluations, checkpoints and processes; all nodes run on the CPU.
        key: same key, same bytes, for any number of processes.
        folder: where the run keeps logs and checkpoints; a run resumes from its folder. None: in memory only.
        on_disk: map the nodes' vectors from a file in the folder.

    Raises:
        LocalError: the arguments do not fit each other, or the folder contains another run.

    >>> import numpy as np, torch
    >>> from fewbits import topology
    >>> from fewbits.learn import DSGD
    >>> x, y = torch.randn(8, 3), torch.arange(8) % 2
    >>> task = Task(torch.nn.Linear(3, 2), x, y, np.arange(8).reshape(4, 2))
    >>> run = GossipRun(task, DSGD(), topology.ring(4), Schedule(2, processes=1), Key(0))
    >>> [report.round for report in run]
    [1, 2]
    """

    def __init__(
        self,
        task: Task,
        method: GossipMethod,
        network: Network,
        schedule: Schedule,
        key: Key,
        folder: Path | str | None = None,
        on_disk: bool = False,
    ) -> None:
        given = GossipSetup(task, method, network, key)
        _check(schedule, folder, on_disk)
        schedule.check_no_budget()
        check_first_batch(task, who="node")
        self.folder = Path(folder) if folder is not None else None
        self.flat = FlatModel(task.model)
        self.method = tuned(method, shared_values.spec(self.flat), network, key.fold("gamma"))
        self.setup = replace(given, method=self.method)
        self.task, self.network, self.schedule = task, network, schedule
        path = self.folder / VECTORS if self.folder and on_disk else None
        self.vectors = SharedVectors(self.flat, method, network, path)
        self.round = 0
        self.notes = unreachable(task.model, task.loss)
        self._said = Notes()
        self.reports: list[GossipReport] = []
        self._seconds = 0.0
        self._links: dict[str, Tensor] = {}  # the states of all links between two uses of the pool
        self._evaluator = Evaluator(task, method, key)
        self._saved_round = 0
        self._between_rounds = True
        self._lock: RunLock | None = None  # of the folder
        self._settings = self.setup.settings
        with placed(self.folder or ""):
            self._restored = self._resume(self.folder) if self.folder else None
        self.ledger = Ledger(self.folder / LEDGER if self.folder else None)

    def _resume(self, folder: Path) -> dict[str, Tensor] | None:
        """Return to the last sound checkpoint: its tensors, and logs cut to their earlier size."""
        check_one_run(folder)
        folder.mkdir(parents=True, exist_ok=True)
        taken: list[dict[str, Tensor]] = []

        def take(note: checkpoint.Note, found: dict[str, Tensor]) -> None:
            self._check_checkpoint(folder, note, found)
            taken.append(found)

        self._lock = RunLock.of(folder)
        start = model_digest(self.task.model, self.flat.shared)
        self._settings = check_same_run(
            folder / "checkpoints", folder, self.setup.settings, start, self.schedule.rounds
        )
        note, complaints = checkpoint.newest(folder / "checkpoints", take)
        self.notes += complaints
        self.reports = [GossipReport(**line) for line in resume_logs(folder, note.sizes if note else None)]
        said = [note for report in self.reports for note in report.notes]
        self._said = Notes(said)
        self.notes += said
        if note is not None:
            self.round = self._saved_round = note.round
            self._seconds = note.seconds
        return taken[-1] if taken else None

    def _check_checkpoint(self, folder: Path, note: checkpoint.Note, found: dict[str, Tensor]) -> None:
        note.check_settings(folder, self.setup.settings)
        for name, x in self.vectors.named().items():
            if found[name].shape != x.shape:
                raise LocalError(f"its {name} have shape {tuple(found[name].shape)}, not {tuple(x.shape)}")

    def run(
        self, watch: Callable[[GossipReport], None] | None = None, stop: Callable[[], bool] | None = None
    ) -> GossipResult:
        """Run the remaining rounds; calls `watch` with each report, and `stop` after each round."""
        with closing(iter(self)) as reports:
            for report in reports:
                if watch:
                    watch(report)
                if stop and stop():
                    break
        self.flat.release()
        notes = self.notes + totals(self.reports)
        return GossipResult(self.task.model, self.vectors.x, self.reports, self.ledger, notes)

    def __iter__(self) -> Generator[GossipReport]:
        if not self._between_rounds:
            raise LocalError("this GossipRun ended within a round; make a new one")
        vectors = {name: x.clone() for name, x in self.vectors.named().items()} if self._links else None
        self.setup.compile_kernels()  # before the clock, and before the workers fork
        playing = self._lock.playing() if self._lock else nullcontext()
        place = placed(self.folder or "memory that the nodes share")
        with place, playing, NodePool(self.setup, self.vectors, self.schedule.processes) as pool:
            self._restore(pool, vectors)
            try:
                while self.round < self.schedule.rounds:
                    yield self._round(pool)
            finally:
                if self._between_rounds:
                    self._save(pool)
                    self.flat.attach()
                    self.flat.shared.copy_(self.mean)
                    self.flat.refresh()

    def _restore(self, pool: NodePool, vectors: dict[str, Tensor] | None) -> None:
        """Restore the vectors and links; the pool's workers have begun with new nodes."""
        if self._restored is not None:
            vectors = {name: x for name, x in self._restored.items() if name.startswith("vectors.")}
            self._links = {name: x for name, x in self._restored.items() if name.startswith("node.")}
            self._restored = None
        if vectors is not None:
            for name, x in self.vectors.named().items():
                x.copy_(vectors[name])
            pool.load(self._links)

    @property
    def mean(self) -> Tensor:
        """The mean of all nodes' models.  # (S,)"""
        return average(self._shared)

    @property
    def _shared(self) -> Tensor:
        """The shared numbers of all nodes' models.  # (n, S)"""
        first = len(self.flat.private[0])
        return self.vectors.x[:, first : first + len(self.flat.shared)]

    def _round(self, pool: NodePool) -> GossipReport:
        self._between_rounds = False
        report = self._train_and_mix(pool, self.round + 1)
        self.reports.append(report)
        if self.folder is not None:
            append_metrics(self.folder, vars(report))
        if report.round % self.schedule.checkpoint_every == 0 or report.round == self.schedule.rounds:
            self._save(pool)
        self._between_rounds = True
        return report

    def _train_and_mix(self, pool: NodePool, round: int) -> GossipReport:
        began = time.perf_counter()
        steps = pool.step()
        check_first(round, steps, self.task)
        self.notes += dict.fromkeys(x for step in steps for x in step.remarks if x not in self.notes)
        mixed = pool.mix({step.node: step.frame_bytes for step in steps})
        left_out = [each for one in mixed for each in one.left_out]
        count_frames(self.ledger, self.network, round, steps)
        measures = self._measures(pool, round, sum(one.zeros for one in mixed))
        self.round = round
        self._seconds += time.perf_counter() - began
        notes = self._said.new(sentences(round, steps, left_out) + measures.sentences(round))
        self.notes += notes
        topology = self.network.at(round)
        found = GossipReport.of(round, steps, measures, topology, self.ledger, self._seconds, notes)
        return replace(found, left_out=len(left_out))

    def _measures(self, pool: NodePool, round: int, zeros: int) -> ModelMeasures:
        mean = self.mean
        sparsity, consensus = zeros / (len(self.flat.params) * self.network.n), distance(self._shared, mean)
        if round % self.schedule.evaluate_every and round != self.schedule.rounds:
            return ModelMeasures(sparsity, consensus)
        evaluation, of_mean = self._evaluator(mean)
        scores = pool.evaluate() if self.task.test is not None else []
        return ModelMeasures(sparsity, consensus, evaluation, scores, of_mean, self.task.metric_name)

    def _save(self, pool: NodePool) -> None:
        """Write a checkpoint after the round that just ended, once its logs are on disk."""
        self._links = pool.dump()
        if self.folder is None or self._saved_round == self.round:
            return
        sizes = sync_logs(self.folder, self.ledger)
        settings = self._settings | {NEWEST: model_digest(self.task.model, self.mean)}
        note = checkpoint.Note(self.round, sizes, self._seconds, settings)
        checkpoint.write(self.folder / "checkpoints", self.vectors.named() | self._links, note)
        self._saved_round = self.round


def _check(schedule: Schedule, folder: object, on_disk: bool) -> None:
    if schedule.per_round is not None or torch.device(schedule.device).type != "cpu":
        raise LocalError("gossip: all nodes take part, on the CPU; per_round and device cannot be set")
    if on_disk and folder is None:
        raise LocalError("GossipRun: on_disk needs a folder for the file")
