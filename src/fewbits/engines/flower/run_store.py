"""RunStore: what a server leaves in its folder. A killed run continues there, to the same final bytes."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import MetricRecord
from flwr.serverapp.strategy import Result
from safetensors.numpy import load, save

from fewbits.engines.common import checkpoint
from fewbits.engines.common.checkpoint import Note
from fewbits.engines.common.logs import LEDGER, append_metrics, resume_logs, sync_logs
from fewbits.engines.flower.quarantine import Quarantine
from fewbits.federated import Server
from fewbits.files import write_atomically
from fewbits.json_text import json_text
from fewbits.links import Ledger, Receiver, Sender, StateStore
from fewbits.rng import Key

RUN = "run"  # holds the name that the run began with
KINDS = ("train_metrics_clientapp", "evaluate_metrics_clientapp", "evaluate_metrics_serverapp")  # as in Result
Metrics = tuple[MetricRecord | None, MetricRecord | None, MetricRecord | None]
log = logging.getLogger("flwr")


class RunStore:
    """The ledger of a run and, with a folder, its metrics, the links' ends and a checkpoint after every round."""

    def __init__(self, folder: Path | None, server: Server, run: str, settings: dict[str, str]) -> None:
        """Continue the run in `folder`, if it holds one: the server is then as it was after its last round."""
        self.folder, self.server, self.settings, self.run = folder, server, settings, run
        self.rounds: list[dict[str, Any]] = []  # lines of metrics
        self._note: Note | None = None
        if folder is not None:
            self._open(folder)
        self.ledger = Ledger(folder / LEDGER if folder else None)

    def _open(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / RUN).exists():
            write_atomically(folder / RUN, self.run.encode())
        self.run = (folder / RUN).read_text()  # not Flower's: a continued run has a new number there
        for note in checkpoint.notes(folder / "checkpoints"):
            note.check_settings(folder, self.settings)
        self._note, complaints = checkpoint.restore(folder / "checkpoints", self.server)
        for complaint in complaints:
            log.warning("fewbits: %s", complaint)
        self.rounds = resume_logs(folder, self._note.sizes if self._note else None)
        self.server.store = StateStore(folder / "states", writer="server")
        self.server.store.forget_after(self.server.round)

    def restore(self, strategy: object, quarantine: Quarantine) -> None:
        """Restore the arrays that the strategy keeps, such as FedAdam's moments, and the quarantine."""
        if self._note is None:
            return
        quarantine.load(json.loads(self._note.settings["quarantine"]))
        for path, array in load(self._strategy_file(self._note.round).read_bytes()).items():
            attribute, _, name = path.partition("/")
            setattr(strategy, attribute, (getattr(strategy, attribute, None) or {}) | {name: array})

    def result(self) -> Result:
        """Flower's Result, with the metrics of the rounds so far."""
        found = Result()
        for line in self.rounds:
            for name in KINDS:
                if line[name] is not None:
                    getattr(found, name)[line["round"]] = MetricRecord(line[name])
        return found

    def close_round(
        self, round: int, result: Result, metrics: Metrics, strategy: object, quarantine: Quarantine
    ) -> None:
        """Enter a round's metrics and, with a folder, bring them and a checkpoint to disk."""
        line: dict[str, Any] = {"round": round}
        for name, record in zip(KINDS, metrics, strict=True):
            line[name] = None if record is None else dict(record)
            if record is not None:
                getattr(result, name)[round] = record
        line |= {"frame_bytes": dict(self.ledger.frame_bytes), "payload_bytes": dict(self.ledger.payload_bytes)}
        self.rounds.append(line)
        if self.folder is None or self.server.store is None:
            return
        append_metrics(self.folder, line)
        self.server.store.commit()
        sizes = sync_logs(self.folder, self.ledger)
        write_atomically(self._strategy_file(round), save(_arrays(strategy)))
        note = Note(round, sizes, 0.0, self.settings | {"quarantine": json_text(quarantine.dump())})
        checkpoint.save(self.folder / "checkpoints", self.server, note)
        self._strategy_file(round - checkpoint.KEEP).unlink(missing_ok=True)
        saved = checkpoint.rounds(self.folder / "checkpoints")
        self.server.store.horizon, self.server.store.saved = saved[0], saved[-1]

    def _strategy_file(self, round: int) -> Path:
        assert self.folder is not None
        return self.folder / f"strategy-{round:08d}.safetensors"


def end_bytes(server: Server) -> int:
    """Bytes that the server keeps per client, from one frame of normal numbers; two or three versions are on disk."""
    key = Key(0)
    update = {
        name: torch.from_numpy(key.fold(name).normal(leaf.numel)).reshape(leaf.shape)
        for name, leaf in server.exchange.update
    }
    receiver = Receiver(server.exchange.up, server.exchange.update, key)
    receiver.receive(Sender(server.exchange.up, server.exchange.update, key, key).send(update))
    return len(receiver.dump())


def _arrays(strategy: object) -> dict[str, np.ndarray]:
    tables = {name: x for name, x in vars(strategy).items() if isinstance(x, dict)}
    return {f"{a}/{n}": x for a, table in tables.items() for n, x in table.items() if isinstance(x, np.ndarray)}
