"""RunStore: what a server leaves in its folder, so that a run that was killed goes on to the same final bytes."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import MetricRecord
from flwr.serverapp.strategy import Result
from safetensors.numpy import load, save

from fewbits.engines.common import checkpoint
from fewbits.engines.common.checkpoint import Note
from fewbits.engines.flower.quarantine import Quarantine
from fewbits.errors import LocalError
from fewbits.federated import Server
from fewbits.files import write_atomically
from fewbits.links import Ledger, Receiver, Sender, StateStore
from fewbits.rng import Key

LEDGER, METRICS, RUN = "ledger.jsonl", "metrics.jsonl", "run"
KINDS = ("train_metrics_clientapp", "evaluate_metrics_clientapp", "evaluate_metrics_serverapp")  # as in Result
Metrics = tuple[MetricRecord | None, MetricRecord | None, MetricRecord | None]
log = logging.getLogger("flwr")


class RunStore:
    """The ledger and, with a folder, everything else; a checkpoint after every round."""

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
        self.run = (folder / RUN).read_text()  # not Flower's: a run that goes on has a new number there
        for note in checkpoint.notes(folder / "checkpoints"):
            for name, value in self.settings.items():
                if note.settings.get(name) != value:
                    found = f"{note.settings.get(name)}; got {value}"
                    raise LocalError(f"{folder} holds a run with another {name}: {found}. Use a new folder")
        self._note, complaints = checkpoint.restore(folder / "checkpoints", self.server)
        for complaint in complaints:
            log.warning("fewbits: %s", complaint)
        for name in (LEDGER, METRICS):
            (folder / name).touch()
            os.truncate(folder / name, self._note.sizes[name] if self._note else 0)
        self.rounds = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
        self.server.store = StateStore(folder / "states", writer="server")
        self.server.store.forget_after(self.server.round)

    def restore(self, strategy: object, quarantine: Quarantine) -> None:
        """Give back what the strategy kept to itself (FedAdam's moments), and who is resting."""
        if self._note is None:
            return
        quarantine.load(json.loads(self._note.settings["quarantine"]))
        for path, array in load(self._kept(self._note.round).read_bytes()).items():
            attribute, _, name = path.partition("/")
            setattr(strategy, attribute, (getattr(strategy, attribute, None) or {}) | {name: array})

    def result(self) -> Result:
        """Flower's own, with the metrics of the rounds so far."""
        found = Result()
        for line in self.rounds:
            for name in KINDS:
                if line[name] is not None:
                    getattr(found, name)[line["round"]] = MetricRecord(line[name])
        return found

    def close_round(
        self, round: int, result: Result, metrics: Metrics, strategy: object, quarantine: Quarantine
    ) -> None:
        """Note what came of a round and, with a folder, make all of it durable."""
        line: dict[str, Any] = {"round": round}
        for name, record in zip(KINDS, metrics, strict=True):
            line[name] = None if record is None else dict(record)
            if record is not None:
                getattr(result, name)[round] = record
        line |= {"frame_bytes": dict(self.ledger.frame_bytes), "payload_bytes": dict(self.ledger.payload_bytes)}
        self.rounds.append(line)
        if self.folder is None or self.server.store is None:
            return
        with (self.folder / METRICS).open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.server.store.commit()
        sizes = {LEDGER: self.ledger.flush(), METRICS: (self.folder / METRICS).stat().st_size}
        write_atomically(self._kept(round), save(_arrays(strategy)))
        note = Note(round, sizes, 0.0, self.settings | {"quarantine": json.dumps(quarantine.dump())})
        checkpoint.save(self.folder / "checkpoints", self.server, note)
        self._kept(round - checkpoint.KEEP).unlink(missing_ok=True)
        saved = checkpoint.rounds(self.folder / "checkpoints")
        self.server.store.horizon, self.server.store.saved = saved[0], saved[-1]

    def _kept(self, round: int) -> Path:
        assert self.folder is not None
        return self.folder / f"strategy-{round:08d}.safetensors"


def end_bytes(server: Server) -> int:
    """What the server keeps of one client, by a frame of normal numbers; two or three versions of it are on disk."""
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
