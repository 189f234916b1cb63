"""A tiny federation over scikit-learn's digits, and the evidence that two runs were the same."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewbits.data.digits import table
from fewbits.engines.simulation import Federation, Schedule, Task
from fewbits.learn import LocalSGD, Method
from fewbits.rng import Key

KEY = Key(7)
LOCAL = LocalSGD(lr=0.1, batch_size=10)


@cache
def digits() -> tuple[Tensor, Tensor]:
    """All pixels in -1..1  # (1797, 64), and labels."""
    rows = table()
    return torch.from_numpy(rows[:, :-1] / 8 - 1).float(), torch.from_numpy(rows[:, -1]).long()


def filled(model: nn.Module) -> nn.Module:
    """The model with weights that depend on nothing but their names."""
    for name, p in model.named_parameters():
        nn.init.normal_(p.data, std=0.2, generator=KEY.fold(name).generator())
    return model


def mlp(hidden: int = 12) -> nn.Module:
    return filled(nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10)))


def task(
    clients: int = 6, model: Callable[[], nn.Module] = mlp, local: LocalSGD = LOCAL, size: int = 16, **changes: Any
) -> Task:
    """Clients of size, size+1, ... examples (so that weights differ), sorted by label in part; 200 test images."""
    x, y = digits()
    order = torch.argsort(y[:1500] // 4, stable=True).numpy()
    ends = np.cumsum([0] + [size + i % 5 for i in range(clients)])
    parts = [order[np.arange(a, b) % 1500] for a, b in pairwise(ends)]
    return Task(model(), x, y, parts, x[1500:1700], y[1500:1700], local=local, **changes)


def holdout(clients: int = 6) -> list[np.ndarray]:
    """Rows that no client trains on, for judging clients' own models: 5, 6, 7, ... each."""
    ends = 1700 + np.cumsum([0] + [5 + i for i in range(clients)])
    return [np.arange(a, b) for a, b in pairwise(ends)]


def federation(method: Method, folder: Path | None = None, rounds: int = 4, **settings: Any) -> Federation:
    """`settings`: a Task as `task`, and those of Schedule."""
    own = settings.pop("task", None) or task()
    schedule = Schedule(rounds, **({"processes": 1} | settings))
    return Federation(own, method, schedule, KEY, folder)


def model_bytes(model: nn.Module) -> bytes:
    return b"".join(x.numpy().tobytes() for x in model.state_dict().values())


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Without the only figure that may differ."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def kept(folder: Path) -> dict[int, bytes]:
    """What each client keeps to itself, sealed, as its newest row in the states of a run's folder."""
    found: dict[int, tuple[int, bytes]] = {}
    for path in sorted((folder / "states").glob("states-*.sqlite")):
        with closing(sqlite3.connect(path)) as file:
            for client, round, data in file.execute("SELECT owner, round, data FROM states WHERE part='client.kept'"):
                found[client] = max(found.get(client, (0, b"")), (round, data))
    return {client: data for client, (_, data) in sorted(found.items())}


def evidence(run: Federation) -> tuple[bytes, bytes, list[dict[str, Any]], dict[int, bytes]]:
    """(model, ledger, metrics, what clients keep) of a finished run with a folder."""
    assert run.folder is not None
    ledger = (run.folder / "ledger.jsonl").read_bytes()
    return model_bytes(run.task.model), ledger, metrics(run.folder), kept(run.folder)
