"""DistributedRun: a gossip run with a process per node; the frames, the models and the logs of the engine `gossip`."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fewbits.engines.common.allocator import keep_memory
from fewbits.engines.common.checkpoint import Note
from fewbits.engines.common.disk import sync
from fewbits.engines.common.logs import LEDGER, METRICS, cut_log
from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Task
from fewbits.engines.distributed.collect import all_reported, collect
from fewbits.engines.distributed.exchange import Exchange
from fewbits.engines.distributed.peer import Peer
from fewbits.engines.distributed.process_info import ProcessInfo
from fewbits.engines.distributed.saved import Saved, common
from fewbits.engines.distributed.world import World
from fewbits.engines.gossip.evaluator import Evaluator
from fewbits.engines.gossip.report import GossipReport
from fewbits.engines.gossip.run import GossipResult, count, log, report_of, settings
from fewbits.engines.gossip.shared_vectors import MARGIN, average, distance
from fewbits.engines.gossip.trainer import Sent, Trainer
from fewbits.errors import LocalError
from fewbits.learn.gossip import GossipMethod, Node
from fewbits.learn.local import evaluate
from fewbits.links import Ledger
from fewbits.rng import Key
from fewbits.topology import Network
from fewbits.wire.identity import canonical

REPORTED = 2**20  # bytes a node tells of a round, at most


class DistributedRun:
    """One node of a run, in this process; every process makes one with the same arguments.

    Rank 0 keeps ledger and metrics; models travel to it, outside the count of the method's bytes, in rounds that are
    evaluated, so that metrics have no line for the others. With a folder, every node leaves its own checkpoints there;
    a run that was ended goes on from the newest round of which all have one.
    """

    def __init__(
        self,
        task: Task,
        method: GossipMethod,
        network: Network,
        schedule: Schedule,
        key: Key,
        folder: Path | str | None = None,
        world: World | None = None,
    ) -> None:
        """`world`: the processes, which have come together; it ends them all when one of them fails."""
        if world is None:
            raise LocalError("DistributedRun: give the World in whose context it is made: `with World() as world:`")
        self.world, rank = world, world.rank
        _check(network, task, world.place)
        self.task, self.network, self.schedule, self.key = task, network, schedule, key
        self.folder = Path(folder) if folder is not None else None
        self.node = Node(task.model, method, network, rank, key)
        self.method = self.node.method
        self.reports: list[GossipReport] = []  # of evaluated rounds, at rank 0
        self.models: Tensor | None = None  # (n, P+B) float32, at rank 0, after the last evaluated round
        self.repairs = 0  # bytes that this node had to send again
        self._saved = Saved(self.folder / "checkpoints", rank) if self.folder else None
        self._trainer = Trainer(task, key, self.node.flat)
        self._judge = Evaluator(task, method) if rank == 0 else None
        self._reported: list[list[dict[str, object]]] = []  # of rounds since rank 0 last heard
        self._seconds = 0.0

    def run(self, watch: Callable[[GossipReport], None] | None = None) -> GossipResult:
        """Play the rounds that are left; `watch` sees each report, at rank 0."""
        threads = torch.get_num_threads()
        keep_memory()
        torch.set_num_threads(1)  # as in the other engines: the same bits, and no fight for the machine's cores
        try:
            self._resume()
            peer = Peer(self.node, Exchange(self.world, 8 * len(self.node.flat.shared) + MARGIN))
            while self.node.round < self.schedule.rounds:
                self._play(peer, watch)
        finally:
            torch.set_num_threads(threads)
        models = self.models if self.models is not None else self.node.vectors.x[None]
        self.node.flat.shared.copy_(average(self._shared(models)))
        return GossipResult(self.task.model, models, self.reports, self.ledger, [])

    def _facts(self) -> dict[str, str]:
        """What all processes must have in common."""
        start = self.node.flat.whole.cpu().numpy().tobytes()
        return settings(self.task, self.method, self.network, self.key) | {
            "initial model": f"{len(start)} bytes, digest {hashlib.blake2b(start, digest_size=8).hexdigest()}",
            "spec": canonical(self.node.spec),
            "schedule": f"{self.schedule.rounds} rounds, evaluated every {self.schedule.evaluate_every}, "
            f"saved every {self.schedule.checkpoint_every}",
        }

    def _resume(self) -> None:
        """Go back to the newest round that all nodes have kept: this node, and at rank 0 the logs."""
        own = {"checkpoints": self._saved.describe() if self._saved else "[]"}
        round, note = common([facts["checkpoints"] for facts in self.world.agree(self._facts(), own)]), None
        if self._saved and not round:
            self._saved.drop(after=0)
        elif self._saved:
            note, found = self._saved.read(round, settings(self.task, self.method, self.network, self.key))
            self.node.load(found)
            self._seconds = note.seconds
        logs = self.folder if self.world.rank == 0 else None
        if logs is not None:
            logs.mkdir(parents=True, exist_ok=True)
            for name in (LEDGER, METRICS):
                cut_log(logs / name, note.sizes[name] if note else 0)
            self.reports = [GossipReport(**json.loads(line)) for line in (logs / METRICS).read_text().splitlines()]
        self.ledger = Ledger(logs / LEDGER if logs else None)

    def _play(self, peer: Peer, watch: Callable[[GossipReport], None] | None) -> None:
        began, number, sent = time.perf_counter(), self.node.round + 1, list[Sent]()

        def step() -> bytes:
            frame, one = self._trainer.step(self.node)
            sent.append(one)
            return frame

        self.repairs += peer.round(step)
        self._reported.append([one.asdict() for one in sent])
        last = number == self.schedule.rounds
        judged, kept = (
            last or number % every == 0 for every in (self.schedule.evaluate_every, self.schedule.checkpoint_every)
        )
        if judged or kept:
            self._tell(number, judged, began, watch)
        else:
            self._seconds += time.perf_counter() - began
        if kept:
            all_reported(
                self.world
            )  # so all have kept the checkpoint before; this one may take the place of an older one
            self._keep(number)

    def _tell(self, number: int, judged: bool, began: float, watch: Callable[[GossipReport], None] | None) -> None:
        """Rank 0 hears of all rounds since it last did, and in a judged one sees all models."""
        world, own = self.world, {"rounds": self._reported, "accuracy": self._accuracy() if judged else None}
        reported = [
            json.loads(bytes(text)) for text in collect(world, json.dumps(own).encode(), REPORTED * len(self._reported))
        ]
        self._reported = []
        x = self.node.vectors.x
        rows = collect(world, memoryview(x.numpy().data).cast("B"), x.nbytes) if judged else []
        if world.rank:
            return
        together = zip(*(node["rounds"] for node in reported), strict=True)
        by_round = [[Sent(**one) for node in nodes for one in node] for nodes in together]
        for round, sent in enumerate(by_round, number - len(by_round) + 1):
            count(self.ledger, self.network, round, sent)
        if judged:
            self.models = torch.stack([torch.frombuffer(row, dtype=torch.float32) for row in rows])
            accuracies = [node["accuracy"] for node in reported]
            report = self._report(number, by_round[-1], None if None in accuracies else accuracies, began)
            if watch:
                watch(report)
        else:
            self._seconds += time.perf_counter() - began

    def _report(self, number: int, sent: list[Sent], accuracies: list[float] | None, began: float) -> GossipReport:
        assert self.models is not None and self._judge is not None
        mean, parameters = average(self._shared(self.models)), len(self.node.flat.params)
        judged = self._judge(mean)
        zeros = sum(parameters - int(torch.count_nonzero(row[:parameters])) for row in self.models)
        self._seconds += time.perf_counter() - began
        report = report_of(
            number,
            sent,
            zeros / (parameters * self.network.n),
            self.network,
            self.ledger,
            self._seconds,
            distance(self._shared(self.models), mean),
            judged,
            accuracies,
        )
        self.reports.append(report)
        if self.folder is not None:
            log(self.folder, report)
        return report

    def _shared(self, models: Tensor) -> Tensor:
        """What travels of each model.  # (n, S)"""
        first = len(self.node.flat.private[0])
        return models[:, first : first + len(self.node.flat.shared)]

    def _accuracy(self) -> float | None:
        """Of this node's own model on the test set."""
        if self.task.test_x is None or self.task.test_y is None:
            return None
        loss = self.task.loss or cross_entropy
        return evaluate(self.node.flat, self.task.test_x, self.task.test_y, loss=loss)[0]

    def _keep(self, number: int) -> None:
        """Checkpoint, at rank 0 once its logs are on disk."""
        if self._saved is None:
            return
        sizes: dict[str, int] = {}
        if self.world.rank == 0 and self.folder is not None:
            sizes = {LEDGER: self.ledger.flush(), METRICS: 0}
            with suppress(FileNotFoundError):
                sizes[METRICS] = (self.folder / METRICS).stat().st_size
            for name in (LEDGER, METRICS):
                sync(self.folder / name)
        self._saved.write(
            self.node.dump(),
            Note(number, sizes, self._seconds, settings(self.task, self.method, self.network, self.key)),
        )


def _check(network: Network, task: Task, place: ProcessInfo) -> None:
    if place.size != network.n:
        raise LocalError(
            f"the network has {network.n} nodes and torchrun started {place.size} processes; give every node one: "
            f"--nproc-per-node {network.n}, on one machine"
        )
    if len(task.parts) != network.n:
        raise LocalError(f"gossip: the network has {network.n} nodes, but the data is in {len(task.parts)} parts")
