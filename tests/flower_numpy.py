"""A Flower app whose training is arithmetic on NumPy arrays, and a federation of it in this process."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fewbits import methods
from fewbits.engines.flower import mod
from flower_task import DirectGrid, node

CLIENTS = 7
DENSE = methods.dense()


def record(**arrays: Any) -> ArrayRecord:
    """Arrays by name, a dot for each double underscore."""
    return ArrayRecord({name.replace("__", "."): Array(np.asarray(x)) for name, x in arrays.items()})


def model() -> ArrayRecord:
    """float32 and float64, a number of no dimensions, and names of which one begins another."""
    steps = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4) / 3
    return record(a__weight=steps, a__bias=np.zeros(4, np.float32), wide=np.linspace(0.1, 0.7, 5), gain=np.float32(0.3))


def trained(x: np.ndarray, client: int, round: int) -> np.ndarray:
    """Other numbers for each client and round, most of which float32 has to round; in the type that `model` has."""
    x = x if x.shape == (5,) else x.astype(np.float32)  # as a model's load_state_dict does
    waves = np.sin(client + 3 * round + np.arange(x.size).reshape(x.shape))
    return (x * (1 - 0.1 * (client + 1)) + waves).astype(x.dtype)


def numpy_app(
    mods: list[Any],
    train: Callable[..., np.ndarray] = trained,
    metrics: Callable[[int, int], dict[str, Any]] = lambda client, round: {"num-examples": 10 + client, "loss": 0.5},
    seen: list[tuple[str, int, dict[str, Any]]] | None = None,
) -> ClientApp:
    """`train` and `metrics` are those of one client in one round; `seen` takes (phase, client, content)."""
    app = ClientApp(mods=mods)

    def place(phase: str, message: Message, context: Context) -> tuple[int, int]:
        client = int(context.node_config["partition-id"])
        if seen is not None:
            seen.append((phase, client, {name: dict(r) for name, r in message.content.items()}))
        return client, int(next(iter(message.content.config_records.values()))["server-round"])

    @app.train()
    def fit(message: Message, context: Context) -> Message:
        client, round = place("train", message, context)
        moved = {
            name: ArrayRecord({key: Array(np.asarray(train(x.numpy(), client, round))) for key, x in arrays.items()})
            for name, arrays in message.content.array_records.items()
        }
        return Message(RecordDict({**moved, "metrics": MetricRecord(metrics(client, round))}), reply_to=message)

    @app.evaluate()
    def judge(message: Message, context: Context) -> Message:
        client, _ = place("evaluate", message, context)
        arrays = [x.numpy() for record in message.content.array_records.values() for x in record.values()]
        sums = [float(x.astype(np.float32).sum()) for x in arrays]
        found = MetricRecord({"num-examples": 5 + client, "sum": sum(sums)})
        return Message(RecordDict({"metrics": found}), reply_to=message)

    return app


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """Flower collects garbage for every array that it converts, which takes a second in a process as large as ours."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


class OrderedGrid(DirectGrid):
    """Replies come in the order of the clients' numbers, as `compress` sorts them, so that sums are the same."""

    def send_and_receive(self, messages, *, timeout=None):
        order = {number: x.context.node_config["partition-id"] for number, x in self.nodes.items()}
        return super().send_and_receive(sorted(messages, key=lambda m: order[m.metadata.dst_node_id]), timeout=timeout)


def numpy_grid(app: ClientApp, folder: Path, clients: int = CLIENTS) -> OrderedGrid:
    return OrderedGrid({100 + c: node(app, c, folder, 100 + c) for c in range(clients)})


def dense_grid(folder: Path, clients: int = CLIENTS, method=DENSE, **more: Any) -> OrderedGrid:
    """A federation that speaks the method."""
    return numpy_grid(numpy_app([mod(method)], **more), folder, clients)


def same(a: ArrayRecord, b: ArrayRecord) -> bool:
    """Whether two records have the same arrays, of the same types, bit for bit."""
    return list(a) == list(b) and all(x.data == b[name].data for name, x in a.items())
