"""On Flower, no lie, NaN or exception of one client ends a run, nor does a server's end a client: a table of them."""

import math
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np
import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, FedMedian

from every_codec import restamp
from fewbits import methods
from fewbits.engines.flower import Compressed, Federated, Quarantine
from fewbits.engines.flower import envelope as wire
from fewbits.links.bundle import pack
from fewbits.wire import Frame
from flower_numpy import DENSE, dense_grid, no_collection, record, same, trained

__all__ = ["no_collection"]  # a fixture of this module, too
CLIENTS, LIAR, ROUNDS = 3, 1, 2
TOPK = methods.topk(fraction=0.5)
WEIGHT = "num-examples"


def around_fedavg(**more):
    return Compressed(FedAvg(), DENSE, **more)


def around_median(**more):
    return Compressed(FedMedian(), TOPK, **more)


def of_ours(**more):
    return Federated(TOPK, CLIENTS, **more)


def start():
    return record(w=np.ones((2, 3), np.float32), b=np.float32(0), steps=np.int64(7), norm__var=np.ones(2, np.float32))


def moved(x, client, round):
    """Floats move, and what travels as it is stays."""
    return trained(x, client, round) if x.dtype == np.float32 else x


def opened(content):
    return wire.opened(wire.value(content))


def changed(reply, **changes):
    """The reply, well sealed, with other parts or fields."""
    found = opened(reply.content)
    reply.content = replace(found, **{**changes, "fields": {**found.fields, **changes.get("fields", {})}}).seal()
    return reply


def reporting(*records):
    return lambda reply: changed(reply, fields={"records": list(records)})


def metrics(**values):
    return reporting(["metrics", "m", {WEIGHT: 10, "loss": 0.5, **values}])


def weighing(weight):
    return metrics(**{WEIGHT: weight})


def fields(**values):
    return lambda reply: changed(reply, fields=values)


def frame(spoil):
    return lambda reply: changed(reply, parts=(spoil(opened(reply.content).parts[0]), *opened(reply.content).parts[1:]))


def payload(spoil):
    return frame(lambda data: restamp(data, spoil(Frame.parse(data).payload)))


def flipped(data):
    return bytes([*data[:-5], data[-5] ^ 1, *data[-4:]])


def raw(data):
    return lambda reply: _content(reply, RecordDict({wire.NAME: ConfigRecord({wire.NAME: data})}))


def json_text(text):
    parts = [text]
    return raw(pack([*parts, wire.checksum(parts)]))


def _content(reply, content):
    reply.content = content
    return reply


def plain(reply):
    more = MetricRecord({WEIGHT: 1, "loss": 1.0})
    return _content(reply, RecordDict({"arrays": start(), "metrics": more}))


HUGE_NOTE = b'{"v":3,"kind":"train","round":' + b"9" * 5000 + b"}"
# Lies in a reply to train that cost its sender the round.
REFUSED = {
    **{f"a weight of {x!r}": weighing(x) for x in (1e308, math.inf, -math.inf, math.nan, 1e-300, -5, 1e9)},
    **{f"a weight of {x!r}": weighing(x) for x in ("7", True, None, [10], {}, 2**70, 10**400)},
    "a metric of text": metrics(loss="low"),
    "metrics of another form": reporting(["metrics", "m", 5]),
    "metrics of text": reporting(["metrics", "m", {"loss": "x"}]),
    "records of one name": reporting(*[["m", "m", {WEIGHT: 5}]] * 2),
    "two records of metrics": reporting(["a", "m", {WEIGHT: 5}], ["b", "m", {WEIGHT: 5}]),
    "no metrics": reporting(),
    "a record in a record": reporting([["metrics", "m", {}]]),
    "nested values": metrics(loss=[[0.5]]),
    "values of two types": metrics(loss=[1, 0.5]),
    "a kind of record that is none": reporting(["metrics", "a", {WEIGHT: 5}]),
    "bytes that are not base64": reporting(["metrics", "m", {WEIGHT: 5}], ["c", "c", {"x": {"b": "!"}}]),
    **{f"records: {x!r}": fields(records=x) for x in (7, "m", {}, [None], [[]])},
    "arrays by the metrics' name": fields(arrays="metrics"),
    "arrays named by a number": fields(arrays=5),
    "half a surrogate pair": fields(arrays="\ud800"),
    "arrays of its own": fields(custom=True),
    "another round": lambda reply: changed(reply, round=1000),
    "a round below 0": lambda reply: changed(reply, round=-1),
    "the kind hello": lambda reply: changed(reply, kind="hello"),
    "the kind evaluate": lambda reply: changed(reply, kind="evaluate"),
    "trouble without words": lambda reply: changed(reply, kind="trouble"),
    "no frame": lambda reply: changed(reply, parts=()),
    "an empty frame": frame(lambda data: b""),
    "a cut frame": frame(lambda data: data[: len(data) // 2]),
    "a longer frame": frame(lambda data: data + b"\0"),
    "a flipped bit": frame(flipped),
    "zeros": frame(lambda data: bytes(64)),
    "random bytes": frame(lambda data: np.random.default_rng(0).bytes(len(data))),
    "a frame of another codec": frame(lambda data: restamp(data, codec=1)),
    "a frame of another history": frame(lambda data: restamp(data, history=Frame.parse(data).header.history ^ 1)),
    "a late frame": frame(lambda data: restamp(data, sequence=9)),
    "the last frame of all": frame(lambda data: restamp(data, sequence=2**24 - 1, key=True)),
    "a snapshot": frame(lambda data: restamp(data, snapshot=True)),
    "a version that there is not": frame(lambda data: restamp(data, ack=40_000)),
    "ones in the payload": payload(lambda data: b"\xff" * len(data)),
    "no payload": payload(lambda data: b""),
    "a part of 3 MB": frame(lambda data: bytes(3 << 20)),
    "arrays that are none": lambda reply: changed(reply, parts=(opened(reply.content).parts[0], b"\1\2{}")),
    **{f"JSON {x[:9]!r}": json_text(x) for x in (b"[]", b"7", b"{", b"NaN", HUGE_NOTE, b"[" * 10_000, b"\xff\xfe")},
    "a name twice": json_text(b'{"v":3,"v":3,"kind":"train","round":1}'),
    "nothing": raw(b""),
    "a note of an enormous length": raw(b"\x01\xff\xff\xff\xff\x0f"),
    "plain arrays": plain,
    "an empty message": lambda reply: _content(reply, RecordDict()),
}
# Lies that cost nobody anything: what counts of the reply is sound.
BORNE = {
    "a loss of NaN": metrics(loss=math.nan),
    "a loss of -inf": metrics(loss=-math.inf),
    "a loss below 0": metrics(loss=-1.0),
    "a list for a loss": metrics(loss=[1.0, 2.0]),
    "an empty list": metrics(loss=[]),
    "metrics of other keys": reporting(["metrics", "m", {WEIGHT: 10, "error": 0.5}]),
    "metrics of another name": reporting(["m", "m", {WEIGHT: 10, "loss": 0.5}]),
    "a name that clears screens": metrics(**{"\x1b[2J": 1}),
    "arrays of no name": fields(arrays=""),
    "arrays that it does not hold": fields(carried="x"),
    "no weight": weighing(-0.0),
}


@dataclass
class Played:
    result: object
    strategy: Compressed
    asked: list


def play(folder, wrap, change=lambda reply: [reply], kind="train", functions=None, **more):
    """A run in which the liar's replies of one kind are changed."""
    strategy = wrap(quarantine=Quarantine(10**6))
    for name, function in (functions or {}).items():
        setattr(strategy, name, function)
    grid = dense_grid(folder, CLIENTS, strategy.method, **{"train": moved} | more)

    def lie(ask, reply):
        data = wire.value(reply.content) if reply.has_content() else None
        if data is None or ask.metadata.dst_node_id != 100 + LIAR or wire.opened(data).kind != kind:
            return [reply]
        return change(reply)

    grid.change = lie
    return Played(strategy.start(grid, start(), num_rounds=ROUNDS, timeout=5), strategy, grid.sent)


def of_liar(strategy):
    return [note for note in strategy.channel.notes if f"client {LIAR} is left out" in note]


@pytest.fixture(scope="module")
def absent(tmp_path_factory):
    """The models of runs in which nothing comes from the liar."""
    folder = tmp_path_factory.mktemp("absent")
    wraps = (around_fedavg, around_median, of_ours)
    return {wrap: play(folder / wrap.__name__, wrap, lambda reply: []).result.arrays for wrap in wraps}


TURNS = dict(zip(REFUSED, cycle((of_ours, around_fedavg, around_median))))


@pytest.mark.parametrize("lie", REFUSED)
def test_a_lie_in_a_reply_is_counted_and_named_and_the_model_is_that_without_its_client(tmp_path, lie, absent):
    wrap = TURNS[lie]
    found = play(tmp_path, wrap, lambda reply: [REFUSED[lie](reply)])
    assert found.strategy.quarantine.offences == {LIAR: ROUNDS}
    assert len(of_liar(found.strategy)) == ROUNDS and all(len(note) < 700 for note in found.strategy.channel.notes)
    assert same(found.result.arrays, absent[wrap])


BORNE_BY = dict(zip(BORNE, cycle((around_fedavg, of_ours))))


@pytest.mark.parametrize("lie", BORNE)
def test_a_lie_about_what_no_model_needs_costs_nothing(tmp_path, lie):
    found = play(tmp_path, BORNE_BY[lie], lambda reply: [BORNE[lie](reply)])
    assert found.strategy.quarantine.offences == {} and finite(found.result.arrays)
    assert len(found.result.train_metrics_clientapp) == ROUNDS


def finite(arrays):
    return all(np.isfinite(x.numpy()).all() for x in arrays.values())
