"""A Flower app over digits, written as a user would, and a grid that carries its messages within this process."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from digits_task import KEY, LOCAL, mlp
from digits_task import task as digits_task
from fewbits.engines.simulation import Task
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.local import evaluate
from fewbits.learn.method import Method

RAISED = 2
if find_spec("flwr.supercore.task_identity"):  # newer Flower gives every message the numbers of its process
    TaskIdentity = import_module("flwr.supercore.task_identity").TaskIdentity
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1  # what a ServerApp's process has


def app(
    task: Task,
    mods: list[Any],
    model: Callable[[], nn.Module] = mlp,
    log: list[tuple[str, int, int]] | None = None,
    method: Method | None = None,
) -> ClientApp:
    """Trains a client's part as the engine `memory` would; the functions know nothing of fewbits' messages."""
    client_app = ClientApp(mods=mods)

    def prepared(message: Message) -> FlatModel:
        module = model()
        module.load_state_dict(message.content["arrays"].to_torch_state_dict(), strict=False)
        return FlatModel(module)

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        flat, client = prepared(message), int(context.node_config["partition-id"])
        number = int(message.content["config"]["server-round"])
        if log is not None:
            log.append(("train", number, client))
        if method is not None:
            method.start(flat.module, number, client)
        part = task.parts[client]
        key = KEY.fold("round", number, "client", client)
        report = LOCAL.train(flat, task.x, task.y, part, key)
        arrays = ArrayRecord(flat.module.state_dict())
        metrics = MetricRecord({"num-examples": len(part), "loss": report.loss})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    @client_app.evaluate()
    def judge(message: Message, context: Context) -> Message:
        accuracy, _ = evaluate(prepared(message), task.test_x, task.test_y)
        metrics = MetricRecord({"num-examples": len(task.test_y), "accuracy": accuracy})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return client_app


class KilledError(Exception):
    """The server's process is gone."""


@dataclass
class Node:
    """One SuperNode."""

    app: ClientApp
    context: Context


@dataclass
class Run:
    run_id: int = 1


@dataclass
class DirectGrid:
    """Calls the apps in place of a network; `change` may alter, drop (None) or multiply replies on their way."""

    nodes: dict[int, Node]
    change: Callable[[Message, Message], Iterable[Message]] = lambda ask, reply: [reply]
    run: Run = field(default_factory=Run)
    sent: list[tuple[int, RecordDict, RecordDict | None]] = field(default_factory=list)
    count: Any = field(default_factory=itertools.count)

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = []
        for ask in messages:
            ask.metadata.__dict__["_message_id"] = str(next(self.count))
            asked = RecordDict(dict(ask.content))
            node = self.nodes[ask.metadata.dst_node_id]
            try:
                reply = node.app(ask, node.context)
            except Exception as error:  # noqa: BLE001  as a SuperNode does
                reply = Message(Error(RAISED, str(error)), reply_to=ask)
            self.sent.append((ask.metadata.dst_node_id, asked, reply.content if reply.has_content() else None))
            replies.extend(self.change(ask, reply))
        return replies


def node(client_app: ClientApp, client: int, folder: Path, number: int = 0) -> Node:
    config = {"partition-id": client, "num-partitions": 10, "fewbits-state": str(folder)}
    return Node(client_app, Context(1, number or 100 + client, config, RecordDict(), {}))


def grid(client_app: ClientApp, folder: Path, clients: int = 6) -> DirectGrid:
    """One node per client, with numbers in another order than theirs."""
    return DirectGrid({900 - 7 * c: node(client_app, c, folder, 900 - 7 * c) for c in range(clients)})


def small_task(clients: int = 6) -> Task:
    return digits_task(clients)
