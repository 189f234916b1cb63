"""Federation: rounds on one machine; every frame is really encoded, decoded and counted."""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from fewbits.engines.common import checkpoint
from fewbits.engines.common.disk import Disk, sync
from fewbits.engines.common.logs import LEDGER, METRICS, cut_log
from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Task
from fewbits.engines.simulation.pool import Pool
from fewbits.engines.simulation.worker import Reply
from fewbits.errors import LocalError
from fewbits.federated.local_round import LocalRound
from fewbits.federated.server import Server, sampled
from fewbits.learn import shared_values
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.method import Method
from fewbits.links import Entry, Ledger, Receiver, SharedInit, StateStore
from fewbits.links.bundle import unpack
from fewbits.links.ledger import stages
from fewbits.rng import Key
from fewbits.wire.frame import HEADER_BYTES
from fewbits.wire.identity import canonical

DOWN = "downlink"
FIGURES = ("loss", "recycled", "floor", "isotropy", "effective_step")  # that replies may bring


@dataclass(frozen=True)
class RoundReport:
    """One line of metrics; byte figures are cumulative and come from the ledger."""

    round: int  # from 1
    # Of the public model on the test set, or, of a method that leaves clients models of their own, `own_accuracy`;
    # None: not evaluated in this round.
    accuracy: float | None
    loss: float | None  # of the public model on the test set
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
    own_accuracy: float | None = None  # mean over all clients of each one's on its own held-out examples
    own_spread: float | None = None  # their standard deviation
    own_worst: float | None = None  # mean of the worst tenth of the clients
    # In subspaces: mean over the round's clients of (D/d) |A^T u|^2 / |u|^2, u what a client's training changed: 1 when
    # its subspace holds as much of it as of a random vector.
    isotropy: float | None = None
    effective_step: float | None = None  # in subspaces: how far a local step moves theta along an isotropic gradient
    epsilon: float | None = None  # under dp: of the rounds so far, for the delta given; see docs/secure-aggregation.md


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


class Federation:
    """A run of all clients on one machine; iterate over it for its reports.

    Args:
        task: model, data and local training, with one part per client.
        method: what travels, and how.
        schedule: rounds, clients per round, evaluations, checkpoints, processes and device.
        key: same key, same bytes, for any number of processes.
        folder: where the run keeps logs, checkpoints and the clients' states. An earlier part of the same run there is
            continued after its last sound checkpoint. None: in memory only.

    Raises:
        LocalError: the arguments do not fit each other, or the folder holds another run.

    Example:
        >>> import numpy as np, torch, fewbits as fb
        >>> x, y = torch.randn(8, 3), torch.arange(8) % 2
        >>> task = Task(torch.nn.Linear(3, 2), x, y, np.arange(8).reshape(4, 2))
        >>> run = Federation(task, fb.methods.dense(), Schedule(2, processes=1), fb.Key(0))
        >>> [report.round for report in run]
        [1, 2]
    """

    def __init__(
        self, task: Task, method: Method, schedule: Schedule, key: Key, folder: Path | str | None = None
    ) -> None:
        _check(task, method, schedule, key)
        method = method.for_round_size(min(schedule.per_round or len(task.parts), len(task.parts)))
        folder = Path(folder) if folder is not None else None
        self.task, self.method, self.schedule, self.key, self.folder = task, method, schedule, key, folder
        self.server = Server(
            task.model,
            method,
            key.fold("server"),
            total_weight=float(sum(method.weight(len(part)) for part in task.parts)),
            common=key,
            init=SharedInit(task.seed, task.build) if task.seed and task.build else None,
        )
        self.notes: list[str] = []
        self.reports: list[RoundReport] = []
        self._seconds = 0.0
        if folder is not None:
            self._resume(folder)
        self.ledger = Ledger(folder / LEDGER if folder else None)
        self._turns: Counter[int] = Counter()  # rounds that each client was asked in
        for round in range(self.server.round):
            self._turns.update(self._sample(round))
        self._down: dict[int | None, tuple[int, int]] = {}
        # Sees (round, client, direction, message) of all that travels, when set.
        self.tap: Callable[[int, int, str, bytes], None] | None = None
        self._disk: Disk | None = None  # while rounds are played
        self._saved = self.server.round  # the round of the last checkpoint
        self._whole = True  # between two rounds; else the model, the ledger and the clients' states do not fit together

    def _resume(self, folder: Path) -> None:
        """Go back to the last sound checkpoint: model, ends of links, and logs cut to their length then."""
        folder.mkdir(parents=True, exist_ok=True)
        try:
            note, complaints = checkpoint.restore(folder / "checkpoints", self.server)
        except LocalError:
            for other in checkpoint.notes(folder / "checkpoints"):  # another method may have sent other tensors
                self._check_settings(folder, other.settings)
            raise
        self.notes += complaints
        if note is not None:
            self._check_settings(folder, note.settings)
            self._seconds = note.seconds
        for name in (LEDGER, METRICS):
            cut_log(folder / name, note.sizes[name] if note else 0)
        self.notes += self.server.broadcast.attach(folder / DOWN)
        store = StateStore(folder / "states", writer="server", durable=False)
        store.forget_after(self.server.round)
        store.close()
        self.reports = [RoundReport(**json.loads(line)) for line in (folder / METRICS).read_text().splitlines()]

    def _settings(self) -> dict[str, str]:
        """What a resumed run must have in common with its earlier part; its length and how often it looks are free."""
        return {
            "method": canonical(self.method),
            "key": self.key.text(),
            "local training": canonical(self.task.local),
            "clients": f"{len(self.task.parts)} with {sum(len(part) for part in self.task.parts)} examples",
            "clients per round": str(self.schedule.per_round or len(self.task.parts)),
        }

    def _check_settings(self, folder: Path, before: dict[str, str]) -> None:
        for name, value in self._settings().items():
            if before.get(name) != value:
                raise LocalError(
                    f"{folder} holds a run with another {name}: {before.get(name)}; got {value}. Use a new folder"
                )

    def own_model(self, client: int) -> nn.Module:
        """A copy of the model as this client has it: the newest public part and what it keeps, such as pFedPara's W2.

        LocalError for a client that there is not, or while there is no folder that outlives the rounds.
        """
        if self.folder is None or not 0 <= client < len(self.task.parts):
            found = "no folder" if self.folder is None else self.folder
            raise LocalError(
                f"own_model: needs a run with a folder and one of its {len(self.task.parts)} clients; got {found} and "
                f"client {client}"
            )
        model = FlatModel(copy.deepcopy(self.task.model))
        local = LocalRound(model, self.method.objective)
        with closing(StateStore(self.folder / "states", writer="server", durable=False)) as store:
            state = local.recall(store, client, local.fresh())
        local.load(shared_values.vector(self.server.broadcast.value), state)
        return model.module

    def run(self, watch: Callable[[RoundReport], None] | None = None, stop: Callable[[], bool] | None = None) -> Result:
        """Play the rounds that are left; `watch` sees each report, `stop` is asked after each round."""
        with closing(iter(self)) as reports:
            for report in reports:
                if watch:
                    watch(report)
                if stop and stop():
                    break
        return Result(self.task.model, self.reports, self.ledger, self.notes)

    def __iter__(self) -> Generator[RoundReport]:
        if self.server.round >= self.schedule.rounds:
            return
        if not self._whole:
            raise LocalError("this Federation ended within a round, or its clients' states are gone; make a new one")
        with (
            self._states() as states,
            Disk(states) as self._disk,  # its end is after that of all connections
            Pool(self.task, self.method, self.key, states, self.schedule.processes, self.schedule.device) as pool,
            # After the workers have forked: an SQLite connection must not be carried into a child.
            closing(StateStore(states, writer="server", durable=False)) as self.server.store,
        ):
            yield from self._play(pool)

    @contextmanager
    def _states(self) -> Iterator[Path]:
        """Where the clients' states are: in the run's folder, or in a temporary one, gone after."""
        if self.folder is not None:
            yield self.folder / "states"
            return
        with tempfile.TemporaryDirectory(prefix="fewbits-") as temporary:
            try:
                yield Path(temporary)
            finally:
                self._whole = False

    def _play(self, pool: Pool) -> Iterator[RoundReport]:
        first = self.server.broadcast.bundle(None)
        try:
            while self.server.round < self.schedule.rounds:
                self._whole = False
                report = self._round(pool, first)
                first = None
                self._log(report)
                if report.round % self.schedule.checkpoint_every == 0 or report.round == self.schedule.rounds:
                    self._save()
                self._whole = True
                yield report
        finally:
            if self._whole and self._saved < self.server.round:
                self._save()

    def _round(self, pool: Pool, first: bytes | None) -> RoundReport:
        """Sample, train, decode and sum in the clients' order, step, evaluate."""
        began, server, number = time.perf_counter(), self.server, self.server.round + 1
        clients = self._sample(server.round)
        self._turns.update(clients)
        bundle = first if first is not None else server.broadcast.bundle(server.broadcast.version - 1)
        server.expect(clients)
        self._down.clear()
        replies: list[Reply] = []
        failed: list[int] = []
        own = [server.bundle(client) for client in clients] if server.downlinks.personal else []
        for i, (reply, frame) in enumerate(pool.round(number, clients, bundle, own)):
            self._count_down(number, reply.client, own[i] if own else None)
            if not reply.trouble:
                receiver = server.accept(reply.client, frame, reply.weight)
                if receiver is None:
                    failed.append(reply.client)
                self._count_up(number, reply.client, frame, receiver)
                if self.tap:
                    self.tap(number, reply.client, "up", bytes(frame))
            replies.append(reply)
        server.step()
        assert server.store is not None
        server.store.horizon, server.store.saved = self._ways_back()
        server.broadcast.horizon = server.store.horizon + 1  # round t ends with version t + 1
        pool.settle(number, failed, server.store.horizon, server.store.saved)
        server.store.commit()
        due = number % self.schedule.evaluate_every == 0 or number == self.schedule.rounds
        judged = self._judge(pool) if due else {}
        self._seconds += time.perf_counter() - began
        if server.void:
            self.notes.append(f"round {number} is void: not all clients arrived, and masks stayed in the sum")
        return self._report(number, replies, len(failed), judged)

    def _sample(self, round: int) -> list[int]:
        """The clients asked in a round, counted from 0."""
        everybody = len(self.task.parts)
        return sampled(self.server.key, round, everybody, self.schedule.per_round or everybody)

    def _judge(self, pool: Pool) -> dict[str, float]:
        """The public model on the test set, and every client's own on what it holds out."""
        bundle, found = self.server.broadcast.bundle(self.server.broadcast.version - 1), {}
        if self.task.test_y is not None:
            found["accuracy"], found["loss"] = pool.evaluate(bundle)
        if self.task.held:
            own = np.sort(pool.evaluate_own(bundle))
            found["own_accuracy"], found["own_spread"] = float(own.mean()), float(own.std())
            found["own_worst"] = float(own[: max(1, round(len(own) / 10))].mean())
        if self.method.personal:
            found.pop("accuracy", None)
            if self.task.held:
                found["accuracy"] = found["own_accuracy"]
        return found

    def _count_up(self, number: int, client: int, frame: bytes | memoryview, receiver: Receiver | None) -> None:
        """Enter a client's frame; one that was left out has travelled, too."""
        payload = max(0, len(frame) - HEADER_BYTES)
        self.ledger.add(Entry(number, client, "up", len(frame), payload, stages(receiver.sections) if receiver else {}))

    def _count_down(self, number: int, client: int, own: bytes | None) -> None:
        """Enter the bundle that brings this client up to date, by its real length: its own, or its version's."""
        version = self.server.versions.get(client)
        if own is not None or version not in self._down:
            bundle = self.server.broadcast.bundle(version) if own is None else own
            frames = unpack(bundle) if bundle[0] else []  # a client that is up to date gets an acknowledgement alone
            self._down[version] = (len(bundle), sum(len(frame) - HEADER_BYTES for frame in frames))
        self.ledger.add(Entry(number, client, "down", *self._down[version]))
        if self.tap:
            self.tap(number, client, "down", self.server.broadcast.bundle(version) if own is None else own)

    def _report(self, number: int, replies: list[Reply], failed: int, judged: dict[str, float]) -> RoundReport:
        used = [r for r in replies if not r.trouble]
        self.notes += [f"round {number}: client {r.client} was skipped: {r.trouble}" for r in replies if r.trouble][:10]
        found = {name: [r.figures[name] for r in used if name in r.figures] for name in FIGURES}
        arrived = 0 if self.server.void else len(used) - failed
        report = RoundReport(
            round=number,
            accuracy=judged.get("accuracy"),
            loss=judged.get("loss"),
            own_accuracy=judged.get("own_accuracy"),
            own_spread=judged.get("own_spread"),
            own_worst=judged.get("own_worst"),
            train_loss=_mean(found["loss"]) or 0.0,
            up_frame_bytes=self.ledger.frame_bytes["up"],
            down_frame_bytes=self.ledger.frame_bytes["down"],
            up_payload_bytes=self.ledger.payload_bytes["up"],
            down_payload_bytes=self.ledger.payload_bytes["down"],
            clients=arrived,
            skipped=len(replies) - len(used),
            rejected=failed,
            recycled=_mean(found["recycled"]),
            floor=max(found["floor"], default=None),
            seconds=self._seconds,
            isotropy=_mean(found["isotropy"]),
            effective_step=_mean(found["effective_step"]),
            epsilon=self._epsilon(arrived),
        )
        self.reports.append(report)
        return report

    def _epsilon(self, arrived: int) -> float | None:
        """After a round in whose sum so many clients are."""
        if self.method.protection is None:
            return None
        rounds = [*(report.clients for report in self.reports), arrived]
        return self.method.protection.epsilon(max(self._turns.values()), rounds, len(self.task.parts))

    def _ways_back(self) -> tuple[int, int]:
        """The oldest and the newest round that a resume may go back to."""
        if self.folder is None:
            return self.server.round, self.server.round
        saved = checkpoint.rounds(self.folder / "checkpoints") or [0]
        return saved[0], saved[-1]

    def _log(self, report: RoundReport) -> None:
        if self.folder is not None:
            with (self.folder / METRICS).open("a") as file:
                file.write(json.dumps(vars(report)) + "\n")

    def _save(self) -> None:
        """Checkpoint after the round that just ended, once logs and states up to it are on disk.

        A killed process loses nothing that was committed. A machine that loses power keeps checkpoint, logs and states
        when nothing was written since; later rounds write the states without waiting, so that power lost then can
        damage the states' files, while checkpoint and logs stay whole.
        """
        if self.folder is None or self._disk is None:
            return
        sizes = {LEDGER: self.ledger.flush(), METRICS: (self.folder / METRICS).stat().st_size}
        for name in (LEDGER, METRICS):
            sync(self.folder / name)
        self._disk.sync()
        self.server.broadcast.sync()
        note = checkpoint.Note(self.server.round, sizes, self._seconds, self._settings())
        checkpoint.save(self.folder / "checkpoints", self.server, note)
        self._saved = self.server.round


def _check(task: Task, method: object, schedule: Schedule, key: object) -> None:
    if not isinstance(method, Method):
        raise LocalError(f"Federation: method must be a Method, such as fewbits.methods.lbgm(); got {method!r}")
    if not isinstance(key, Key):
        raise LocalError(f"Federation: key must be a Key, such as Key(0); got {key!r}")
    if schedule.per_round is not None and schedule.per_round > len(task.parts):
        raise LocalError(f"per_round is {schedule.per_round}, but there are {len(task.parts)} clients")
    method.objective.check(task.local)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
