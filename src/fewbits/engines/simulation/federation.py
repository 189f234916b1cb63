"""Federation: rounds on one machine. Every frame is really encoded, decoded and counted."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from torch import nn

from fewbits.engines.common.disk import Disk
from fewbits.engines.common.failed_turn import Notes
from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Task
from fewbits.engines.simulation import divergence
from fewbits.engines.simulation.affordable import check_affordable
from fewbits.engines.simulation.budget import Budget
from fewbits.engines.simulation.evaluation import Evaluation, evaluate
from fewbits.engines.simulation.pool import Pool
from fewbits.engines.simulation.result import Result
from fewbits.engines.simulation.round_report import RoundReplies, RoundReport, is_finite, totals
from fewbits.engines.simulation.run_checks import check_arguments, check_first_round, run_settings
from fewbits.engines.simulation.run_folder import RunFolder
from fewbits.engines.simulation.secure_round import SecureRound
from fewbits.engines.simulation.traffic import Traffic
from fewbits.errors import LocalError
from fewbits.factor.derived import duplicate
from fewbits.federated.compile_kernels import compile_kernels
from fewbits.federated.local_round import LocalRound
from fewbits.federated.round_clients import sampled
from fewbits.federated.server import Server
from fewbits.files import placed
from fewbits.learn import shared_values
from fewbits.learn.aggregation.memory import memory_note
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.method import Method
from fewbits.learn.private_generators import unreachable
from fewbits.links import Ledger, SharedInit, StateStore
from fewbits.privacy.account import PrivacyAccount
from fewbits.rng import Key


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
        check_arguments(task, method, schedule, key)
        everybody, sizes = task.clients, task.sizes
        method = method.for_round_size(min(schedule.per_round or everybody, everybody))
        self.task, self.method, self.schedule, self.key = task, method, schedule, key
        self.server = Server(
            task.model,
            method,
            key.fold("server"),
            total_weight=None if sizes is None else float(sum(map(method.weight, sizes))),
            common=key,
            init=SharedInit(task.seed, task.build) if task.seed and task.build else None,
        )
        per_round = schedule.per_round or everybody
        self.notes: list[str] = memory_note(method.aggregator, per_round, self.server.exchange.update.numel)
        self.reports: list[RoundReport] = []
        self._seconds = 0.0
        self._run_folder = (
            None if folder is None else RunFolder(Path(folder), run_settings(task, self.method, schedule, key))
        )
        if self._run_folder is not None:
            self.reports, self._seconds, earlier = self._run_folder.resume(
                self.server, schedule.rounds, schedule.budget
            )
            self.notes += earlier
        said = [note for report in self.reports for note in report.notes]
        self._said = Notes(said)
        self.notes += said + unreachable(task.model, task.loss)
        self.ledger = Ledger(self._run_folder.ledger if self._run_folder else None)
        self._privacy = self._account()
        # Sees (round, client, direction, message) of all that travels, when set; directions are "up" and
        # "down", and "secure up" and "secure down" for the messages around masks.
        self.tap: Callable[[int, int, str, bytes], None] | None = None
        self.budget = Budget(schedule.budget, self.server.exchange, self.ledger, key)
        self._traffic = Traffic(self.server, self.ledger, self.budget)
        self.budget.start(self.reports)
        if not self.reports:
            check_affordable(schedule, task, method, key)
        self.finished = self.server.round >= schedule.rounds  # no round is left to be played
        self.gave_up = False  # it ended because it diverges
        self._disk: Disk | None = None  # while rounds are played
        self._saved_round = self.server.round  # of the last checkpoint
        self._between_rounds = True  # else the model, the ledger and the clients' states do not fit together

    @property
    def folder(self) -> Path | None:
        """Where the run keeps its files."""
        return None if self._run_folder is None else self._run_folder.path

    def client_model(self, client: int) -> nn.Module:
        """A copy of the model as one client has it: the newest public part, and its private part, as pFedPara's W2.

        Raises:
            LocalError: the run has no folder, or no such client.
        """
        if self._run_folder is None or not 0 <= client < self.task.clients:
            raise LocalError(
                f"client_model: needs a run with a folder and one of its {self.task.clients} clients; got "
                f"{self.folder or 'no folder'} and client {client}"
            )
        model = FlatModel(duplicate(self.task.model))
        local = LocalRound(model, self.method.objective)
        state = self._run_folder.client_state(local, client, client in self.server.versions)
        local.load(shared_values.vector(self.server.broadcast.value), state)
        return model.module

    def run(self, watch: Callable[[RoundReport], None] | None = None, stop: Callable[[], bool] | None = None) -> Result:
        """Play the rounds that are left.

        Args:
            watch: called with each report.
            stop: called after each round; True ends the run there.
        """
        with closing(iter(self)) as reports:
            for report in reports:
                if watch:
                    watch(report)
                if stop and stop():
                    break
        self.server.flat.release()
        ended = self.finished and self.schedule.budget and self.server.round < self.schedule.rounds
        notes = [self.budget.end(self.server.round, self.gave_up)] if ended else []
        return Result(self.task.model, self.reports, self.ledger, notes + self.notes + totals(self.reports))

    def __iter__(self) -> Generator[RoundReport]:
        if self.server.round >= self.schedule.rounds:
            return
        if not self._between_rounds:
            raise LocalError("this Federation ended within a round, or its clients' states are gone; make a new one")
        compile_kernels(self.server.exchange)  # before the clock, and before the workers fork
        with (
            placed(self.folder or "a temporary folder"),
            self._states() as states,
            Disk(states) as self._disk,  # closed after all connections
            Pool(self.task, self.method, self.key, states, self.schedule.processes, self.schedule.device) as pool,
            # After the workers have forked: an SQLite connection must not be carried into a child.
            closing(StateStore(states, writer="server", durable=False)) as self.server.store,
        ):
            yield from self._play(pool)

    @contextmanager
    def _states(self) -> Iterator[Path]:
        """Where the clients' states are: in the run's folder, or in a temporary one."""
        if self._run_folder is not None:
            with self._run_folder.lock.playing():
                self._run_folder.check_states(self.server, self.task.local)
                yield self._run_folder.states
            return
        with tempfile.TemporaryDirectory(prefix="fewbits-") as temporary:
            try:
                yield Path(temporary)
            finally:
                self._between_rounds = False

    def _play(self, pool: Pool) -> Iterator[RoundReport]:
        first = self.server.broadcast.bundle(None)
        clients = self._coming()
        try:
            while clients is not None:
                self._between_rounds = False
                report, clients = self._round(pool, first, clients)
                first = None
                self.reports.append(report)
                if self._run_folder is not None:
                    self._run_folder.log(report)
                if report.round % self.schedule.checkpoint_every == 0 or self.finished:
                    self._save()
                self._between_rounds = True
                yield report
        finally:
            if self._between_rounds and self._saved_round < self.server.round:
                self._save()

    def _coming(self) -> list[int] | None:
        """The clients that the next round asks; None: the run has ended."""
        self._traffic.begin(self.tap)
        round, found = self.server.round, None
        self.gave_up = self.schedule.give_up and divergence.diverges(self.reports[: round - 1])  # of a resumed run, too
        if round < self.schedule.rounds and not self.gave_up:
            found = self.budget.clients(self._sample(round), self._traffic.down_bytes)
        self.finished = found is None
        return found

    def _round(self, pool: Pool, first: bytes | None, clients: list[int]) -> tuple[RoundReport, list[int] | None]:
        """Train, decode and sum in the clients' order, step, evaluate; returns the clients of the next round, too."""
        began, server, number = time.perf_counter(), self.server, self.server.round + 1
        bundle = first if first is not None else server.broadcast.bundle(server.broadcast.version - 1)
        server.expect(clients)
        secure = None
        if self.method.masking is not None:
            secure = SecureRound(pool, server.secure, number, self.ledger, self.tap)
            secure.begin()
            clients = list(server.secure.members)
        personal = [server.bundle(client) for client in clients] if server.downlinks.personal else []
        arriving = pool.round(number, clients, bundle, personal)
        replies, failed, unsent, unasked = self._traffic.collect(number, arriving, personal)
        if secure is not None:
            secure.end()
            replies += secure.absent(clients)
        check_first_round(number, replies, self.task)
        server.step()
        self._settle(pool, number, [*failed, *unsent, *unasked])
        found = RoundReplies(replies, failed | server.left_out, server.void, self.method.poisson, unsent)
        found = replace(found, too_dear=self.budget.close(len(replies), len(replies) - found.frameless))
        coming = self._coming()
        evaluation = self._evaluate(pool, number)
        self._seconds += time.perf_counter() - began
        return self._report(number, found, evaluation), coming

    def _sample(self, round: int) -> list[int]:
        """The clients asked in a round, counted from 0."""
        everybody = self.task.clients
        return sampled(self.server.key, round, everybody, self.schedule.per_round or everybody, self.method.poisson)

    def _settle(self, pool: Pool, number: int, failed: list[int]) -> None:
        """Take back the states of clients whose frame failed; forget what no checkpoint needs."""
        store, round = self.server.store, self.server.round
        assert store is not None
        store.horizon, store.saved = self._run_folder.checkpoints() if self._run_folder else (round, round)
        self.server.broadcast.horizon = store.horizon + 1  # round t ends with version t + 1
        pool.settle(number, failed, store.horizon, store.saved)
        store.commit()

    def _evaluate(self, pool: Pool, number: int) -> Evaluation:
        if number % self.schedule.evaluate_every and not self.finished:
            return Evaluation()
        newest = self.server.broadcast.bundle(self.server.broadcast.version - 1)
        return evaluate(pool, self.task, newest, self.method.personal)

    def _report(self, number: int, replies: RoundReplies, evaluation: Evaluation) -> RoundReport:
        sentences = replies.sentences(number) + [f"round {number}: {note}" for note in evaluation.notes]
        if not is_finite(evaluation):
            sentences.append(f"round {number}: the loss on the test set is {evaluation.loss}; the run has diverged")
        notes = self._said.new(sentences)
        self.notes += notes
        self.notes += [x for x in (*self.server.notes, *replies.remarks) if x not in self.notes]
        loss, name = None, self.task.metric_name
        if self._privacy is not None:
            self._privacy.add([reply.client for reply in replies.replies], replies.used)
            loss = self._privacy.loss()
        found = RoundReport.of(number, replies, evaluation, self.ledger, self._seconds, loss, notes, name)
        late = self._said.new(divergence.sentences([*self.reports, found]))
        notes += late  # the report's own list
        self.notes += late
        return found

    def _account(self) -> PrivacyAccount | None:
        """What the rounds so far have cost; None: the run has no noise."""
        if self.method.privacy is None:
            return None
        account = PrivacyAccount(self.method.privacy, self.task.clients, self.method.masking is not None)
        for report in self.reports:
            account.add(self._sample(report.round - 1)[: report.asked], report.clients)
        return account

    def _save(self) -> None:
        if self._run_folder is not None and self._disk is not None:
            self._run_folder.save(self.server, self.ledger, self._disk, self._seconds)
            self._saved_round = self.server.round
