"""Every value in the JSON of Flower's messages, replaced by others: python tests/fuzz/values.py

Bytes that are damaged fail a checksum. These do not: each message is well sealed, and one value in it is not what it
should be. No peer's value may raise anything but the library's own errors, and a refused one may move nothing. It is
deterministic and takes some minutes; a slice of it runs in the tests.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

sys.path.insert(0, str(Path(__file__).parents[1]))

from fewbits import methods
from fewbits.engines.flower import Compressed, Federated, Quarantine, mod
from fewbits.engines.flower import envelope as wire
from fewbits.links.bundle import pack, unpack
from flower_task import DirectGrid, node

DEEP: Any = []
for _ in range(300):
    DEEP = [DEEP]
HOSTILE: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**70), 10**400, 0.5, -0.0, 1e-300, 1e300),
    *(
        float("nan"),
        float("inf"),
        float("-inf"),
        "",
        "x",
        "none",
        "x" * 5000,
        "\ud800",
        "a.b",
        "\0",
        "i4,(2",
        "9V",
        "é",
    ),
    *([], {}, [[]], [0], [1.5], [-1], ["a"], [2**40, 2**40], [[1, 2]], {"b": 1}, {"b": "="}, {"": {}}, DEEP),
]
TEXTS = [b"", b"[]", b"7", b"{", b'{"v":3,"v":3}', b'{"round":' + b"9" * 5000 + b"}", b"[" * 3000, b"\xff\xfe", b"NaN"]


def changed(tree: Any) -> Iterator[tuple[str, Any]]:
    """(what was changed, the tree with one node replaced, removed or repeated)."""
    for path in paths(tree):
        for value in HOSTILE:
            yield f"{path} = {ascii(value)[:40]}", edited(tree, path, lambda owner, at, v=value: put(owner, at, v))
        yield f"{path} removed", edited(tree, path, lambda owner, at: owner.pop(at))
    yield "an unknown name", {**tree, "unknown": HOSTILE} if isinstance(tree, dict) else [*tree, *tree]


def paths(tree: Any, here: tuple = ()) -> Iterator[tuple]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for at, value in items:
        yield (*here, at)
        yield from paths(value, (*here, at))


def edited(tree: Any, path: tuple, edit) -> Any:
    tree = owner = copy.deepcopy(tree)
    for at in path[:-1]:
        owner = owner[at]
    edit(owner, path[-1])
    return tree


def put(owner: Any, at: Any, value: Any) -> None:
    owner[at] = value


def sealed(parts: list[bytes]) -> RecordDict:
    return RecordDict({wire.NAME: ConfigRecord({wire.NAME: pack([*parts, wire.checksum(parts)])})})


def variants(content: RecordDict) -> Iterator[tuple[str, RecordDict]]:
    """Well-sealed messages with one value changed: in the JSON, and in that of every part that begins with some."""
    *parts, _ = unpack(wire.value(content))
    for i, part in enumerate(parts):
        for name, data in changed_json(part):
            yield f"part {i}: {name}", sealed([*parts[:i], data, *parts[i + 1 :]])
        yield f"part {i} removed", sealed(parts[:i] + parts[i + 1 :])
        yield f"part {i} twice", sealed([*parts[: i + 1], *parts[i:]])
        yield f"part {i} cut", sealed([*parts[:i], part[: len(part) // 2], *parts[i + 1 :]])


def changed_json(part: bytes) -> Iterator[tuple[str, bytes]]:
    if part[:1] == b"{":
        yield from ((name, json.dumps(tree).encode()) for name, tree in changed(json.loads(part)))
        yield from ((ascii(text)[:40], text) for text in TEXTS)
        return
    try:
        head, *files = unpack(part)
    except Exception:  # noqa: BLE001  a frame, which other fuzzing covers
        return
    if head[:1] == b"{":
        for name, data in changed_json(head):
            yield name, pack([data, *files])
        for i, file in enumerate(files):
            for old, new in ((b"<f", b"|O"), (b"(", b"(9, "), (b"<", b">"), (b"False", b"True"), (b"descr", b"desc")):
                yield (
                    f"array {i}: {old!r} is {new!r}",
                    pack([head, *files[:i], file.replace(old, new, 1), *files[i + 1 :]]),
                )


def app(method) -> ClientApp:
    """Moves every array a little, whatever it is told."""
    found = ClientApp(mods=[mod(method)])

    def moved(message: Message, context: Context) -> Message:
        arrays = {
            name: ArrayRecord({key: Array(np.asarray(x.numpy() * 1)) for key, x in record.items()})
            for name, record in message.content.array_records.items()
        }
        metrics = MetricRecord({"num-examples": 5, "loss": 0.5, "each": [1.0, 2.0]})
        more = ConfigRecord({"a": b"1", "b": ["x"], "c": True})
        return Message(RecordDict({**arrays, "metrics": metrics, "more": more}), reply_to=message)

    found.train()(moved)
    found.evaluate()(moved)
    return found


def start() -> ArrayRecord:
    arrays = {"w.0": np.ones((2, 2), np.float32), "norm.var": np.ones(2, np.float32), "n": np.arange(3)}
    return ArrayRecord({name: Array(x) for name, x in arrays.items()})


class OwnForOne(FedAvg):
    """Writes arrays of its own to one of two nodes."""

    def configure_train(self, *args: Any) -> list[Message]:
        messages = list(super().configure_train(*args))
        for message in messages:
            if message.metadata.dst_node_id == 101:
                message.content = RecordDict({"arrays": ArrayRecord({"z": Array(np.ones(2))}), "c": ConfigRecord()})
        return messages

    def aggregate_train(self, server_round, replies):
        return None, None


class Stage:
    """A server and two clients in the middle of round 2."""

    def __init__(self, folder: Path, strategy: Compressed, method) -> None:
        client_app = app(method)
        self.grid = DirectGrid({n: node(client_app, n - 100, folder, n) for n in (100, 101)})
        self.strategy, self.config = strategy, ConfigRecord({"lr": 0.1, "b": b"\xff", "s": ["a"]})
        for round in (1, 2):
            self.asks = list(strategy.configure_train(round, start(), self.config, self.grid))
            self.asked = [RecordDict(dict(ask.content)) for ask in self.asks]
            self.replies = self.grid.send_and_receive(self.asks)
            if round == 1:
                strategy.aggregate_train(round, self.replies)
        self.contents = [reply.content for reply in self.replies]
        self.before = self.state()

    def state(self) -> tuple:
        """All that a refused reply must leave as it is."""
        server = self.strategy.server
        dumps = [server.receiver(c).dump() for c in (0, 1)]
        return dumps, server.flat.vector().tolist(), dict(server.versions), self.strategy.arrays

    def to_server(self, content: RecordDict) -> None:
        """One reply is `content`, and nobody else's comes; a reply that is left out has moved nothing."""
        reply, before = self.replies[0], self.strategy.quarantine.offences.copy()
        reply.content = content
        arrays, _ = self.strategy.aggregate_train(2, [reply])
        if self.strategy.quarantine.offences != before:
            assert self.state()[0] == self.before[0], "a reply was refused and its link has moved"
        for array in (arrays or self.strategy.arrays).values():
            assert np.isfinite(array.numpy()).all(), "the model is not finite"
        for client, dump in enumerate(self.before[0]):
            self.strategy.server.receiver(client).load(dump)
        self.strategy.server.versions.update(self.before[2])
        self.strategy.channel.notes.clear()

    def to_client(self, content: RecordDict) -> None:
        """A server's message; the client answers it, or says why it cannot."""
        ask = self.asks[0]
        ask.content = content
        place = self.grid.nodes[ask.metadata.dst_node_id]
        answer = place.app(ask, place.context)
        assert answer.has_content() and wire.value(answer.content) is not None


def stages(folder: Path) -> Iterator[tuple[str, Stage]]:
    """Around a strategy, with arrays of its own, and the server of fewbits."""
    many = Quarantine(strikes=10**9)
    topk, dense = methods.topk(), methods.dense()
    yield "compress", Stage(folder / "a", Compressed(FedAvg(), topk, quarantine=many), topk)
    yield "lossless", Stage(folder / "b", Compressed(FedAvg(), dense, quarantine=many), dense)
    yield "own arrays", Stage(folder / "c", Compressed(OwnForOne(), topk, quarantine=many), topk)
    yield "federated", Stage(folder / "d", Federated(topk, 2, quarantine=many), topk)


def attack(folder: Path, every: int = 1) -> int:
    """All variants, or one of so many; how many there were."""
    count = 0
    for name, stage in stages(folder):
        for side, contents, play in (
            ("server", stage.contents, stage.to_server),
            ("client", stage.asked, stage.to_client),
        ):
            for i, content in enumerate(contents):
                if side == "server" and i:
                    stage.replies.reverse()
                for number, (what, variant) in enumerate(variants(content)):
                    if (number + count) % every:
                        continue
                    try:
                        play(variant)
                    except BaseException as error:
                        raise AssertionError(f"{name}, to the {side}, message {i}, {what}: {error!r}") from error
                    count += 1
    return count + attack_hello(folder / "hello", every) + attack_evaluation(folder / "evaluation", every)


def attack_hello(folder: Path, every: int) -> int:
    """Answers to the hello: the node is known or left out, and nothing else happens."""
    stage = Stage(folder, Compressed(FedAvg(), methods.topk()), methods.topk())
    registry, hello = stage.strategy.channel.registry, stage.strategy.channel._hello
    asks = [Message(RecordDict(), number, "train") for number in (100, 101)]
    (sample, *_) = [reply for _, asked, reply in stage.grid.sent if kind(asked) == "hello"]
    chosen = list(variants(sample))[::every]
    for _, variant in chosen:
        stage.grid.change = lambda ask, reply, v=variant: [Message(v, reply_to=ask)]
        registry.known.clear()
        registry.meet(stage.grid, asks, hello, 1)
    return len(chosen)


def attack_evaluation(folder: Path, every: int) -> int:
    """Answers to an evaluation, beside an honest one: there are metrics, whatever the liar sends."""
    stage = Stage(folder, Compressed(FedAvg(), methods.topk(), quarantine=Quarantine(10**9)), methods.topk())
    strategy = stage.strategy
    asks = list(strategy.configure_evaluate(2, strategy._latest, ConfigRecord(), stage.grid))
    replies = stage.grid.send_and_receive(asks)
    honest = [RecordDict(dict(reply.content)) for reply in replies]
    chosen = list(variants(honest[0]))[::every]
    for _, variant in chosen:
        for reply, content in zip(replies, (variant, honest[1]), strict=True):
            reply.content = content
        assert strategy.aggregate_evaluate(2, replies) is not None
    return len(chosen)


def kind(content: RecordDict) -> str:
    return wire.opened(wire.value(content)).kind


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        print(attack(Path(place), int(sys.argv[1]) if len(sys.argv) > 1 else 1), "messages")
