"""GossipRun: rounds of all nodes on one machine; every frame is really encoded, sent, decoded and counted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fewbits.engines.common import checkpoint
from fewbits.engines.common.disk import sync
from fewbits.engines.common.logs import LEDGER, METRICS, cut_log
from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Task
from fewbits.engines.gossip.evaluator import Evaluator
from fewbits.engines.gossip.node_pool import NodePool
from fewbits.engines.gossip.report import GossipReport
from fewbits.engines.gossip.shared_vectors import SharedVectors, average, distance
from fewbits.engines.gossip.trainer import Sent
from fewbits.errors import LocalError
from fewbits.learn import exchange
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.gossip import GossipMethod, tuned
from fewbits.links import Entry, Ledger
from fewbits.rng import Key
from fewbits.topology import Network
from fewbits.wire.identity import canonical

VECTORS = "vectors.bin"


@dataclass(frozen=True, eq=False)
class GossipResult:
    """What a run leaves."""

    model: nn.Module  # the mean of all nodes' models, in place
    models: Tensor  # (n, P+B) float32: each node's, laid out as FlatModel.whole
    reports: list[GossipReport]
    ledger: Ledger  # "up": a node's frame, counted once; "down": what a node received from all its neighbours
    notes: list[str]  # sentences about what went wrong and was survived

    @property
    def accuracy(self) -> float | None:
        """The last one measured: the mean over nodes."""
        return next((r.accuracy for r in reversed(self.reports) if r.accuracy is not None), None)


class GossipRun:
    """A run: iterate over it for its reports. With a folder it leaves logs and checkpoints, and can be resumed."""

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
        """One node per part of the task. `on_disk`: map the nodes' vectors from a file in the folder."""
        _check(task, method, network, schedule, key)
        if on_disk and folder is None:
            raise LocalError("GossipRun: on_disk needs a folder for the file")
        self.folder = Path(folder) if folder is not None else None
        self.flat = FlatModel(task.model)
        self.method = tuned(method, exchange.spec(self.flat), network, key.fold("gamma"))
        self.task, self.network, self.schedule, self.key = task, network, schedule, key
        self.rows = SharedVectors(
            self.flat, method, network, self.folder / VECTORS if self.folder and on_disk else None
        )
        self.round = 0
        self.notes: list[str] = []
        self.reports: list[GossipReport] = []
        self._seconds = 0.0
        self._ends: dict[str, Tensor] = {}  # of all links, between two uses of the crew
        self._judge = Evaluator(task, method)
        self._saved = 0
        self._whole = True  # between two rounds
        self._kept: dict[str, Tensor] | None = self._resume(self.folder) if self.folder else None
        self.ledger = Ledger(self.folder / LEDGER if self.folder else None)

    def _resume(self, folder: Path) -> dict[str, Tensor] | None:
        """Go back to the last sound checkpoint: its tensors, and logs cut to their length then."""
        folder.mkdir(parents=True, exist_ok=True)
        kept: list[dict[str, Tensor]] = []

        def take(note: checkpoint.Note, found: dict[str, Tensor]) -> None:
            self._check_settings(folder, note.settings)
            for name, rows in self.rows.named().items():
                if found[name].shape != rows.shape:
                    raise LocalError(f"its {name} have shape {tuple(found[name].shape)}, not {tuple(rows.shape)}")
            kept.append(found)

        for earlier in checkpoint.notes(folder / "checkpoints"):
            self._check_settings(folder, earlier.settings)
        note, complaints = checkpoint.newest(folder / "checkpoints", take)
        self.notes += complaints
        for name in (LEDGER, METRICS):
            cut_log(folder / name, note.sizes[name] if note else 0)
        self.reports = [GossipReport(**json.loads(line)) for line in (folder / METRICS).read_text().splitlines()]
        if note is not None:
            self.round = self._saved = note.round
            self._seconds = note.seconds
        return kept[-1] if kept else None

    def _check_settings(self, folder: Path, before: dict[str, str]) -> None:
        for name, value in settings(self.task, self.method, self.network, self.key).items():
            if before.get(name) != value:
                raise LocalError(
                    f"{folder} holds a run with another {name}: {before.get(name)}; got {value}. Use a new folder"
                )

    def run(
        self, watch: Callable[[GossipReport], None] | None = None, stop: Callable[[], bool] | None = None
    ) -> GossipResult:
        """Play the rounds that are left; `watch` sees each report, `stop` is asked after each round."""
        with closing(iter(self)) as reports:
            for report in reports:
                if watch:
                    watch(report)
                if stop and stop():
                    break
        return GossipResult(self.task.model, self.rows.x, self.reports, self.ledger, self.notes)

    def __iter__(self) -> Generator[GossipReport]:
        if not self._whole:
            raise LocalError("this GossipRun ended within a round; make a new one")
        vectors = {name: rows.clone() for name, rows in self.rows.named().items()} if self._ends else None
        with NodePool(self.task, self.method, self.network, self.key, self.rows, self.schedule.processes) as crew:
            self._restore(crew, vectors)
            try:
                while self.round < self.schedule.rounds:
                    self._whole = False
                    report = self._round(crew)
                    if self.folder is not None:
                        log(self.folder, report)
                    if report.round % self.schedule.checkpoint_every == 0 or report.round == self.schedule.rounds:
                        self._save(crew)
                    self._whole = True
                    yield report
            finally:
                if self._whole:
                    self._save(crew)
                    self.flat.shared.copy_(self.mean)

    def _restore(self, crew: NodePool, vectors: dict[str, Tensor] | None) -> None:
        """The players have begun every node afresh: give them back what they were."""
        if self._kept is not None:
            vectors = {name: x for name, x in self._kept.items() if name.startswith("rows.")}
            self._ends = {name: x for name, x in self._kept.items() if name.startswith("node.")}
            self._kept = None
        if vectors is not None:
            for name, rows in self.rows.named().items():
                rows.copy_(vectors[name])
            crew.load(self._ends)

    @property
    def mean(self) -> Tensor:
        """The mean of all nodes' models.  # (S,)"""
        return average(self._shared)

    @property
    def _shared(self) -> Tensor:
        first = len(self.flat.private[0])
        return self.rows.x[:, first : first + len(self.flat.shared)]

    def _round(self, crew: NodePool) -> GossipReport:
        began, number = time.perf_counter(), self.round + 1
        sent = crew.step()
        lengths = {one.node: one.frame_bytes for one in sent}
        zeros = crew.mix(lengths)
        count(self.ledger, self.network, number, sent)
        mean = self.mean
        judged: dict[str, float] = {}
        accuracies: list[float] | None = None
        if number % self.schedule.evaluate_every == 0 or number == self.schedule.rounds:
            judged = self._judge(mean)
            accuracies = [a for a, _ in crew.evaluate()] if self.task.test_y is not None else None
        self.round = number
        self._seconds += time.perf_counter() - began
        sparsity, apart = sum(zeros) / (len(self.flat.params) * self.network.n), distance(self._shared, mean)
        report = report_of(number, sent, sparsity, self.network, self.ledger, self._seconds, apart, judged, accuracies)
        self.reports.append(report)
        return report

    def _save(self, crew: NodePool) -> None:
        """Checkpoint after the round that just ended, once its logs are on disk."""
        self._ends = crew.dump()
        if self.folder is None or self._saved == self.round:
            return
        sizes = {LEDGER: self.ledger.flush(), METRICS: (self.folder / METRICS).stat().st_size}
        for name in (LEDGER, METRICS):
            sync(self.folder / name)
        note = checkpoint.Note(
            self.round, sizes, self._seconds, settings(self.task, self.method, self.network, self.key)
        )
        checkpoint.write(self.folder / "checkpoints", self.rows.named() | self._ends, note)
        self._saved = self.round


def settings(task: Task, method: GossipMethod, network: Network, key: Key) -> dict[str, str]:
    """What a resumed run must have in common with its earlier part."""
    return {
        "method": canonical(method),
        "network": repr(network),
        "key": key.text(),
        "local training": canonical(task.local),
        "nodes": f"{network.n} with {sum(len(part) for part in task.parts)} examples",
    }


def log(folder: Path, report: GossipReport) -> None:
    """One more line of metrics."""
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps(vars(report)) + "\n")


def count(ledger: Ledger, network: Network, number: int, sent: list[Sent]) -> None:
    """A frame once as it was sent, and what each node received, from waking neighbours, asleep itself or not."""
    lengths = {one.node: (one.frame_bytes, one.payload_bytes) for one in sent}
    for one in sent:
        ledger.add(Entry(number, one.node, "up", one.frame_bytes, one.payload_bytes, one.stages))
    for i in range(network.n):
        heard = [lengths[j] for j in network.neighbours(i) if j in lengths]
        ledger.add(Entry(number, i, "down", sum(frame for frame, _ in heard), sum(payload for _, payload in heard)))


def report_of(
    number: int,
    sent: list[Sent],
    sparsity: float,
    network: Network,
    ledger: Ledger,
    seconds: float,
    consensus: float,
    judged: dict[str, float],
    accuracies: list[float] | None,
) -> GossipReport:
    """One line of metrics; `judged` is what Judge found, {} when it was not asked."""
    return GossipReport(
        round=number,
        accuracy=sum(accuracies) / len(accuracies) if accuracies else None,
        worst_accuracy=min(accuracies) if accuracies else None,
        accuracies=accuracies,
        mean_accuracy=judged.get("mean_accuracy"),
        loss=judged.get("loss"),
        penalty=judged.get("penalty"),
        stationarity=judged.get("stationarity"),
        train_loss=sum(one.loss for one in sent) / max(1, len(sent)),
        consensus=consensus,
        sparsity=sparsity,
        frame_bytes=ledger.frame_bytes["up"],
        link_bytes=ledger.frame_bytes["down"],
        payload_bytes=ledger.payload_bytes["up"],
        coded_bits=_total(sent, "coded"),
        entropy_bits=_total(sent, "entropy"),
        predicted_bits=_total(sent, "predicted"),
        spectral_gap=network.at(number).gap,
        inactive=len(network.at(number).inactive),
        seconds=seconds,
    )


def _total(sent: list[Sent], what: str) -> float | None:
    found = [one.coding[what] for one in sent if what in one.coding]
    return sum(found) if found else None


def _check(task: Task, method: object, network: object, schedule: Schedule, key: object) -> None:
    if not isinstance(method, GossipMethod):
        raise LocalError(f"gossip: method must be a GossipMethod, such as fb.Malcom(); got {method!r}")
    if not isinstance(network, Network):
        raise LocalError(f"gossip: network must be a Topology, such as fb.topology.torus(16); got {network!r}")
    if not isinstance(key, Key):
        raise LocalError(f"gossip: key must be a Key, such as Key(0); got {key!r}")
    network.check()
    if len(task.parts) != network.n:
        raise LocalError(f"gossip: the network has {network.n} nodes, but the data is in {len(task.parts)} parts")
    if schedule.per_round is not None or torch.device(schedule.device).type != "cpu":
        raise LocalError("gossip: all nodes take part, on the CPU; per_round and device cannot be set")
