"""RunFolder: what a run leaves on disk, and how it continues there."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from torch import Tensor

from fewbits.engines.common import checkpoint
from fewbits.engines.common.disk import Disk
from fewbits.engines.common.logs import LEDGER, METRICS, append_metrics, resume_logs, sync_logs
from fewbits.engines.common.run_files import check_one_run
from fewbits.engines.common.run_lock import RunLock
from fewbits.engines.common.same_run import CHECKPOINTS, NEWEST, check_goes_on, check_same_run
from fewbits.engines.common.task import Local
from fewbits.engines.common.task_identity import model_digest
from fewbits.engines.simulation.client_states import check_states
from fewbits.engines.simulation.round_report import RoundReport
from fewbits.errors import LocalError
from fewbits.federated.local_round import PART, LocalRound
from fewbits.federated.server import Server
from fewbits.files import placed
from fewbits.links import Ledger, StateStore

DOWN = "downlink"  # the broadcast's log


class RunFolder:
    """Logs, checkpoints and the clients' states of one run."""

    def __init__(self, path: Path, settings: dict[str, str]) -> None:
        """`settings`: what a resumed run must have in common with its earlier part, by name."""
        self.path, self.settings = path, settings
        check_one_run(path)
        with placed(path):
            path.mkdir(parents=True, exist_ok=True)
        self.lock = RunLock.of(path)
        self.states, self._checkpoints = path / "states", path / CHECKPOINTS
        self.ledger, self.metrics = path / LEDGER, path / METRICS

    def resume(self, server: Server, rounds: int, budget: int | None) -> tuple[list[RoundReport], float, list[str]]:
        """Go back to the last sound checkpoint: the server, the logs cut to their length then, and the states.

        `rounds`: that the run shall have; `budget`: bytes that it may spend, None for no limit.

        Returns the reports so far, the seconds of training so far, and sentences about what was damaged.

        Raises:
            LocalError: the folder holds another run, more rounds than that or more bytes; nothing has changed in it
                then. Or too little is left to continue.
        """
        with placed(self.path):
            start = model_digest(server.model, server.flat.shared)
            self.settings = check_same_run(self._checkpoints, self.path, self.settings, start, rounds)
            check_goes_on(self.path, rounds, budget)
            note, sentences = checkpoint.restore(self._checkpoints, server)
            lines = resume_logs(self.path, note.sizes if note else None)
            sentences += server.broadcast.attach(self.path / DOWN)
            with closing(self._store()) as store:
                store.forget_after(server.round)
        try:
            reports = [RoundReport(**line) for line in lines]
        except TypeError:
            raise LocalError(f"{self.metrics} was written by another version of fewbits; use a new folder") from None
        return reports, note.seconds if note else 0.0, sentences

    def checkpoints(self) -> tuple[int, int]:
        """The oldest and the newest round that a resume may go back to."""
        saved = checkpoint.rounds(self._checkpoints) or [0]
        return saved[0], saved[-1]

    def log(self, report: RoundReport) -> None:
        """Append a report to the metrics."""
        append_metrics(self.path, vars(report))

    def save(self, server: Server, ledger: Ledger, disk: Disk, seconds: float) -> None:
        """Write a checkpoint after the round that just ended, once logs and states up to it are on disk.

        A killed process loses nothing that was committed. A machine that loses power keeps checkpoint, logs and states
        when nothing was written since. Later rounds write the states without waiting for the disk. Power lost then can
        damage the states' files; checkpoint and logs stay whole.
        """
        sizes = sync_logs(self.path, ledger)
        disk.sync()
        server.broadcast.sync()
        settings = self.settings | {NEWEST: model_digest(server.model, server.flat.shared)}
        note = checkpoint.Note(server.round, sizes, seconds, settings)
        checkpoint.save(self._checkpoints, server, note)

    def check_states(self, server: Server, local: Local) -> None:
        """LocalError when states are missing that the next rounds may need."""
        if server.versions:
            with closing(self._store()) as store:
                check_states(store, server, local, server.versions.keys())

    def client_state(self, local: LocalRound, client: int, trained: bool) -> Tensor:
        """What a client keeps to itself; that of a new client when it never trained.  # (state,)"""
        new = local.new_state()
        with closing(self._store()) as store:
            if trained and new.numel() and store.newest(client, PART) is None:
                raise LocalError(f"{self.states}: the state of client {client}, which has trained, is missing")
            return local.recall(store, client, new)

    def _store(self) -> StateStore:
        return StateStore(self.states, writer="server", durable=False)
