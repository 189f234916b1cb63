"""RunStore: what a server leaves in its folder. A killed run continues there, to the same final bytes."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, MetricRecord

from fewbits.engines.common import checkpoint
from fewbits.engines.common.checkpoint import Note
from fewbits.engines.common.logs import LEDGER, append_metrics, resume_logs, sync_logs
from fewbits.engines.common.run_files import ON_FLOWER, check_on_flower
from fewbits.engines.common.run_lock import RunLock
from fewbits.engines.flower.quarantine import Quarantine
from fewbits.engines.flower.strategy_state import StrategyState
from fewbits.federated import Server
from fewbits.files import write_atomically
from fewbits.json_text import json_text
from fewbits.links import Ledger, Receiver, Sender, StateStore
from fewbits.rng import Key

KINDS = ("train_metrics_clientapp", "evaluate_metrics_clientapp", "evaluate_metrics_serverapp")  # as in Result
Metrics = Mapping[str, MetricRecord | None]  # by kind
log = logging.getLogger("flwr")


class RunStore:
    """The ledger of a run and, with a folder, its metrics, the links' ends and a checkpoint after every round."""

    def __init__(self, folder: Path | None, server: Server, run: str, settings: dict[str, str]) -> None:
        """Continue the run in `folder`, if it holds one: the server is then as it was after its last round.

        LocalError when another process serves from the folder.
        """
        self.folder, self.server, self.settings, self.run = folder, server, settings, run
        self.rounds: list[dict[str, Any]] = []  # lines of metrics
        self._note: Note | None = None
        self._lock: RunLock | None = None  # of the folder
        if folder is not None:
            self._open(folder)
        self.ledger = Ledger(folder / LEDGER if folder else None)

    def _open(self, folder: Path) -> None:
        check_on_flower(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = RunLock.of(folder)
        if not (folder / ON_FLOWER).exists():
            write_atomically(folder / ON_FLOWER, self.run.encode())
        self.run = (folder / ON_FLOWER).read_text()  # not Flower's: a continued run has a new number there
        for note in checkpoint.notes(folder / "checkpoints"):
            note.check_settings(folder, self.settings)
        self._note, complaints = checkpoint.restore(folder / "checkpoints", self.server)
        for complaint in complaints:
            log.warning("fewbits: %s", complaint)
        self.rounds = resume_logs(folder, self._note.sizes if self._note else None)
        self.server.store = StateStore(folder / "states", writer="server")
        self.server.store.forget_after(self.server.round)

    def restore(self, state: StrategyState, quarantine: Quarantine) -> ArrayRecord | None:
        """Restore the strategy and the quarantine; the arrays that the next round begins with, if a run goes on."""
        if self._note is None:
            return None
        quarantine.load(json.loads(self._note.settings["quarantine"]))
        return state.load(self._strategy_file(self._note.round).read_bytes())

    def metrics(self, kind: str) -> dict[int, MetricRecord]:
        """Flower's metrics of one kind, by round."""
        return {line["round"]: MetricRecord(_numbers(line[kind])) for line in self.rounds if line[kind] is not None}

    def close_round(self, round: int, metrics: Metrics, strategy: Callable[[], bytes], quarantine: Quarantine) -> None:
        """Enter a round's metrics and, with a folder, bring them, a checkpoint and `strategy()` to disk."""
        line: dict[str, Any] = {"round": round}
        line |= {name: None if record is None else _words(dict(record)) for name, record in metrics.items()}
        line |= {"frame_bytes": dict(self.ledger.frame_bytes), "payload_bytes": dict(self.ledger.payload_bytes)}
        self.rounds.append(line)
        if self.folder is None or self.server.store is None:
            return
        append_metrics(self.folder, line)
        self.server.store.commit()
        sizes = sync_logs(self.folder, self.ledger)
        write_atomically(self._strategy_file(round), strategy())
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


def _words(metrics: Any) -> Any:
    """Metrics for JSON, which has no NaN and no infinity: these are text there."""
    if isinstance(metrics, dict):
        return {name: _words(x) for name, x in metrics.items()}
    if isinstance(metrics, list):
        return [_words(x) for x in metrics]
    return metrics if math.isfinite(metrics) else str(metrics)


def _numbers(metrics: Any) -> Any:
    """Undo `_words`."""
    if isinstance(metrics, dict):
        return {name: _numbers(x) for name, x in metrics.items()}
    if isinstance(metrics, list):
        return [_numbers(x) for x in metrics]
    return float(metrics) if isinstance(metrics, str) else metrics
