"""Federation: rounds on one machine; every frame is really encoded, decoded and counted."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from fewbits.engines.memory import checkpoint
from fewbits.engines.memory.pool import Pool
from fewbits.engines.memory.task import Task
from fewbits.engines.memory.worker import Reply
from fewbits.errors import LocalError
from fewbits.learn.method import Method
from fewbits.learn.server import Server
from fewbits.link import Entry, Ledger, StateStore
from fewbits.link.broadcast import unpack
from fewbits.link.ledger import stages
from fewbits.rng import Key
from fewbits.wire.frame import HEADER_BYTES


@dataclass(frozen=True)
class RoundReport:
    """One line of metrics; byte figures are cumulative and come from the ledger."""

    round: int  # from 1
    accuracy: float | None  # of the public model on the test set; None: not evaluated in this round
    loss: float | None  # there
    train_loss: float  # mean over the round's clients, of their last epoch
    up_frame_bytes: int
    down_frame_bytes: int
    up_payload_bytes: int
    down_payload_bytes: int
    clients: int  # whose update was used
    skipped: int  # without an update: theirs was not finite
    rejected: int  # whose frame could not be used
    recycled: float | None  # share of recycled sends among this round's; None: the method has none
    floor: float | None  # largest |g/tau|^2 sin^2 recycled at this round: the additive term of LBGM's bound
    seconds: float  # wall, since the first round, evaluations included


@dataclass(frozen=True, eq=False)
class Result:
    """What a run leaves."""

    model: nn.Module  # trained, in place
    reports: list[RoundReport]
    ledger: Ledger
    notes: list[str]  # sentences about what went wrong and was survived

    @property
    def accuracy(self) -> float | None:
        """The last one measured."""
        return next((r.accuracy for r in reversed(self.reports) if r.accuracy is not None), None)


@dataclass(frozen=True)
class Schedule:
    """How long, with whom, and how often to look."""

    rounds: int
    per_round: int | None = None  # clients sampled per round; None: all
    evaluate_every: int = 1  # rounds; the last is always evaluated
    checkpoint_every: int = 10  # rounds; only with a folder
    processes: int = 2

    def __post_init__(self) -> None:
        for name in ("rounds", "evaluate_every", "checkpoint_every", "processes"):
            if getattr(self, name) < 1:
                raise LocalError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.per_round is not None and self.per_round < 1:
            raise LocalError(f"per_round must be at least 1; got {self.per_round}")


class Federation:
    """A run: iterate over it for its RoundReports. With a folder it leaves logs and checkpoints, and can be resumed."""

    def __init__(self, task: Task, method: Method, schedule: Schedule, key: Key, folder: Path | None = None) -> None:
        """`folder` may hold an earlier part of the same run, which is continued after its last sound checkpoint."""
        self.task, self.method, self.schedule, self.key = task, method, schedule, key
        self._temporary = tempfile.TemporaryDirectory(prefix="fewbits-") if folder is None else None
        self._root = folder or Path(self._temporary.name if self._temporary else "")
        self._logs = folder is not None
        self._root.mkdir(parents=True, exist_ok=True)
        self._store = StateStore(self._root / "states", writer="server")
        everybody = float(sum(len(part) for part in task.parts)) if method.normalise == "all" else None
        self.server = Server(
            task.model, method.up, method.down, key.fold("server"), method.optimizer, self._store, method.normalise, everybody
        )
        self.notes: list[str] = []
        self.reports: list[RoundReport] = []
        self._seconds = 0.0
        self._resume()
        self.ledger = Ledger(self._root / "ledger.jsonl" if self._logs else None)
        self._down: dict[int | None, tuple[int, int]] = {}

    def _resume(self) -> None:
        """Go back to the last sound checkpoint: model, ends of links, and logs cut to their length then."""
        note, complaints = checkpoint.restore(self._root / "checkpoints", self.server)
        self.notes += complaints
        self._seconds = note.seconds if note else 0.0
        for name in ("ledger.jsonl", "metrics.jsonl"):
            path = self._root / name
            if path.exists():
                size = note.sizes[name] if note else 0
                if path.stat().st_size < size:
                    raise LocalError(f"{path} is shorter than its checkpoint says ({path.stat().st_size} of {size} bytes)")
                with path.open("r+b") as file:
                    file.truncate(size)
        self._store.forget_after(self.server.round)
        metrics = self._root / "metrics.jsonl"
        if metrics.exists():
            self.reports = [RoundReport(**json.loads(line)) for line in metrics.read_text().splitlines()]

    def run(self, watch: Callable[[RoundReport], None] | None = None, stop: Callable[[], bool] | None = None) -> Result:
        """Play the rounds that are left; `watch` sees each report, `stop` is asked after each round."""
        for report in self:
            if watch:
                watch(report)
            if stop and stop():
                break
        return Result(self.task.model, self.reports, self.ledger, self.notes)

    def __iter__(self) -> Iterator[RoundReport]:
        states = self._root / "states"
        saved = self.server.round
        try:
            if saved < self.schedule.rounds:
                with Pool(self.task, self.method, self.key, states, self.schedule.processes) as pool:
                    first = self.server.broadcast.bundle(None)
                    while self.server.round < self.schedule.rounds:
                        report = self._round(pool, first)
                        first = None
                        self._log(report)
                        if self.server.round % self.schedule.checkpoint_every == 0:
                            saved = self._save(pool)
                        yield report
        finally:
            if saved < self.server.round and self._logs:
                self._save(None)
            self._store.close()
            if self._temporary:
                self._temporary.cleanup()

    def _round(self, pool: Pool, first: bytes | None) -> RoundReport:
        """Sample, train, decode and sum in the clients' order, step, evaluate."""
        began, server, number = time.perf_counter(), self.server, self.server.round + 1
        clients = server.sample(len(self.task.parts), self.schedule.per_round or len(self.task.parts))
        bundle = first if first is not None else server.broadcast.bundle(server.broadcast.version - 1)
        common = self.key.fold("round", number, "common")
        self._down.clear()
        replies: list[Reply] = []
        failed: list[int] = []
        for reply, frame in pool.round(number, clients, bundle):
            self._count_down(number, reply.client)
            if not reply.trouble:
                receiver = server.accept(reply.client, frame, reply.weight, common)
                if receiver is not None:
                    payload = len(frame) - HEADER_BYTES
                    self.ledger.add(Entry(number, reply.client, "up", len(frame), payload, stages(receiver.sections)))
                else:
                    failed.append(reply.client)
            replies.append(reply)
        server.step()
        pool.settle(number, failed, self._horizon())
        self._store.commit()
        accuracy = loss = None
        if self.task.test_y is not None and (number % self.schedule.evaluate_every == 0 or number == self.schedule.rounds):
            accuracy, loss = pool.evaluate(server.broadcast.bundle(server.broadcast.version - 1))
        self._seconds += time.perf_counter() - began
        return self._report(number, replies, len(failed), accuracy, loss)

    def _count_down(self, number: int, client: int) -> None:
        """Enter the bundle that brings this client from its version to the newest, by its real length."""
        version = self.server.versions.get(client)
        if version not in self._down:
            bundle = self.server.broadcast.bundle(version)
            self._down[version] = (len(bundle), sum(len(frame) - HEADER_BYTES for frame in unpack(bundle)))
        self.ledger.add(Entry(number, client, "down", *self._down[version]))

    def _report(self, number: int, replies: list[Reply], failed: int, accuracy: float | None, loss: float | None) -> RoundReport:
        used = [r for r in replies if not r.trouble]
        self.notes += [f"round {number}: client {r.client} was skipped: {r.trouble}" for r in replies if r.trouble][:10]
        recycled = [r.figures["recycled"] for r in used if "recycled" in r.figures]
        floors = [r.figures["floor"] for r in used if "floor" in r.figures]
        losses = [r.figures["loss"] for r in used]
        report = RoundReport(
            round=number,
            accuracy=accuracy,
            loss=loss,
            train_loss=sum(losses) / max(1, len(losses)),
            up_frame_bytes=self.ledger.frame_bytes["up"],
            down_frame_bytes=self.ledger.frame_bytes["down"],
            up_payload_bytes=self.ledger.payload_bytes["up"],
            down_payload_bytes=self.ledger.payload_bytes["down"],
            clients=len(used) - failed,
            skipped=len(replies) - len(used),
            rejected=failed,
            recycled=sum(recycled) / len(recycled) if recycled else None,
            floor=max(floors) if floors else None,
            seconds=self._seconds,
        )
        self.reports.append(report)
        return report

    def _horizon(self) -> int:
        """The oldest round that a resume may go back to."""
        return self.server.round if not self._logs else min(checkpoint.rounds(self._root / "checkpoints"), default=0)

    def _log(self, report: RoundReport) -> None:
        if self._logs:
            with (self._root / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(vars(report)) + "\n")

    def _save(self, pool: Pool | None) -> int:
        """Checkpoint after the round that just ended; the states of that round are already on disk."""
        if self._logs:
            sizes = {"ledger.jsonl": self.ledger.flush(), "metrics.jsonl": (self._root / "metrics.jsonl").stat().st_size}
            checkpoint.save(self._root / "checkpoints", self.server, sizes, self._seconds)
        return self.server.round
