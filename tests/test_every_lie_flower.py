"""On Flower, no lie, NaN or exception of one client ends a run, nor does a server's end a client: a table of them."""

import json
import math
from dataclasses import dataclass, replace
from itertools import count, cycle, product

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, FedMedian

from every_codec import restamp
from fewbits import methods
from fewbits.engines.flower import Compressed, Federated, Quarantine
from fewbits.engines.flower import envelope as wire
from fewbits.links.bundle import pack, unpack
from fewbits.links.bundle import wrap as bundled
from fewbits.wire import Frame
from flower_numpy import DENSE, dense_grid, no_collection, record, same, trained

__all__ = ["no_collection"]  # a fixture of this module, too
CLIENTS, LIAR, ROUNDS = 3, 1, 2
TOPK = methods.topk(fraction=0.5)
WEIGHT = "num-examples"


def around_fedavg(evaluate=0.0, **more):
    return Compressed(FedAvg(fraction_evaluate=evaluate), DENSE, **more)


def around_median(evaluate=0.0, **more):
    return Compressed(FedMedian(fraction_evaluate=evaluate), TOPK, **more)


def of_ours(evaluate=0.0, **more):
    return Federated(TOPK, CLIENTS, evaluate=evaluate, **more)


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
    return reporting(["metrics", "m", {WEIGHT: 10 + LIAR, "loss": 0.5, **values}])


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


def play(folder, wrap, change=lambda reply: [reply], kind="train", functions=None, rounds=ROUNDS, **more):
    """A run in which the liar's replies of one kind are changed."""
    strategy = wrap(evaluate=float(kind == "evaluate"), quarantine=Quarantine(10**6))
    for name, function in (functions or {}).items():
        setattr(strategy, name, function)
    grid = dense_grid(folder, CLIENTS, strategy.method, **{"train": moved} | more)

    def lie(ask, reply):
        data = wire.value(reply.content) if reply.has_content() else None
        if data is None or ask.metadata.dst_node_id != 100 + LIAR or wire.opened(data).kind != kind:
            return [reply]
        return change(reply)

    grid.change = lie
    return Played(strategy.start(grid, start(), num_rounds=rounds, timeout=5), strategy, grid.sent)


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


# What the liar's app makes of an array.
VALUES = {
    "NaN": lambda x: np.full_like(x, np.nan) if x.dtype.kind == "f" else x,
    "infinite": lambda x: np.full_like(x, -np.inf) if x.dtype.kind == "f" else x,
    "4.7e36": lambda x: np.full_like(x, 4.7e36) if x.dtype.kind == "f" else x,
    "the largest integer": lambda x: np.full_like(x, 2**63 - 1) if x.dtype.itemsize == 8 else x,
    "no dimensions": lambda x: x.reshape(-1)[0],
    "one more": lambda x: np.append(x, x.reshape(-1)[:1]),
    "complex": lambda x: x.astype(np.complex64),
    "bools": lambda x: x > 0,
    "text": lambda x: x.astype(str),
    "objects": lambda x: x.astype(object),
    "an exception": lambda x: 1 / 0,
}


@pytest.mark.parametrize("wrap", [around_fedavg, of_ours])
@pytest.mark.parametrize("lie", VALUES)
def test_values_that_no_model_has_cost_the_client_its_turn(tmp_path, lie, wrap, absent):
    if (lie, wrap) == ("the largest integer", of_ours):
        return  # which sums floats alone, so that integers stay as they are
    train = lambda x, client, round: VALUES[lie](x) if client == LIAR else moved(x, client, round)  # noqa: E731
    found = play(tmp_path, wrap, train=train)
    assert set(found.strategy.quarantine.offences) <= {LIAR} and same(found.result.arrays, absent[wrap])
    assert sum(f"client {LIAR}" in note for note in found.strategy.channel.notes) == ROUNDS


OTHERS = {name: REFUSED[name] for name in ("nothing", "an empty message", "JSON b'NaN'", "a name twice")}
OTHERS |= {f"client {x!r}": fields(client=x) for x in (-1, "1", 0, 2**61)} | {"bytes": fields(bytes=-5)}
OTHERS |= {"a weight of NaN": weighing(math.nan)}


@pytest.mark.parametrize("lie", OTHERS)
def test_a_lie_in_a_reply_to_a_hello_an_evaluation_or_a_goodbye_ends_nothing(tmp_path, lie):
    for kind, wrap in (("hello", of_ours), ("evaluate", around_fedavg), ("goodbye", around_median)):
        found = play(tmp_path / kind, wrap, lambda reply: [OTHERS[lie](reply)], kind, rounds=1)
        assert len(found.result.train_metrics_clientapp) == 1 and finite(found.result.arrays)


def strict(contents, weighted_by):
    """A user's function that takes the clients at their word."""
    found = [next(iter(content.metric_records.values())) for content in contents]
    return MetricRecord({"levels": sum(math.log(each["loss"]) + int(10 * each["loss"]) for each in found)})


@pytest.mark.parametrize("loss", [math.nan, math.inf, -1.0, 0.0])
def test_a_metric_function_that_fails_on_a_clients_word_costs_the_rounds_metrics(tmp_path, loss):
    for wrap in (around_fedavg, of_ours):
        lie = lambda reply: [metrics(loss=loss)(reply)]  # noqa: E731
        found = play(tmp_path / wrap.__name__, wrap, lie, functions={"train_metrics_aggr_fn": strict})
        assert len([note for note in found.strategy.channel.notes if "train_metrics_aggr_fn failed" in note]) == ROUNDS
        assert all(dict(record) == {} for record in found.result.train_metrics_clientapp.values())
        assert same(found.result.arrays, play(tmp_path / f"{wrap.__name__} honest", wrap).result.arrays)
        assert found.strategy.inner.train_metrics_aggr_fn is strict


def test_a_metric_function_sees_the_replies_that_most_clients_sent(tmp_path):
    lie = BORNE["metrics of other keys"]
    found = play(tmp_path, around_fedavg, lambda reply: [lie(reply)], functions={"train_metrics_aggr_fn": strict})
    assert all(record["levels"] == 2 * (math.log(0.5) + 5) for record in found.result.train_metrics_clientapp.values())


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A server's first message to train, and a client that has never met it."""
    folder = tmp_path_factory.mktemp("asked")
    found = play(folder, of_ours)
    message = next(content for _, content, _ in found.asked if opened(content).kind == "train")
    places = count()

    def answer(content):
        ask = Message(content, 100, "train")
        ask.metadata.__dict__["_message_id"] = "1"
        fresh = next(iter(dense_grid(folder / f"{next(places)}", 1, TOPK, train=moved).nodes.values()))
        return opened(fresh.app(ask, fresh.context).content)

    return message, answer


def entries(*listed):
    return json.dumps({"entries": listed}).encode()


def shaped(*shape, name="w"):
    return entries([name, shape, "float32", "coded"])


LAYOUTS = {
    "another": shaped(2),
    "of 2^40 numbers": shaped(2**40),
    "of 2^40 times nothing": shaped(2**40, 0),
    "of a length below 0": shaped(-1),
    "of 65 dimensions": shaped(*[1] * 65),
    "of nothing": entries(),
    "500 levels deep": shaped(2, name="a." * 499 + "w"),
    "2,000 arrays": entries(*[[f"n{i}", [0], "float32", "coded"] for i in range(2000)]),
    **{
        f"of {name!r}": shaped(2, name=name)
        for name in ("", ".", "forward", "__class__", "_modules.w", "a\0", "\ud800")
    },
    "of a type that is code": entries(["w", [1], "i4,(2", "coded"]),
    "of a kind that is none": entries(["w", [1], "float32", "secret"]),
    "of names within names": entries(["a", [1], "float32", "coded"], ["a.b", [1], "float32", "coded"]),
    "not JSON": b"\xff",
}


@pytest.mark.parametrize("lie", LAYOUTS)
def test_a_client_bears_whatever_layout_a_server_sends(asked, lie):
    message, answer = asked
    found = opened(message)
    assert answer(replace(found, parts=(found.parts[0], LAYOUTS[lie], *found.parts[2:])).seal()).kind == "trouble"
    assert answer(message).kind == "train"


HEADERS = [{"key": True}, {"key": False}, {"snapshot": True}, {"codec": 1}, {"history": 1}]


@pytest.mark.parametrize("header", HEADERS, ids=str)
def test_a_client_bears_whatever_bundle_a_server_sends(asked, header):
    message, answer = asked
    found = opened(message)
    for sequence, ack in product((0, 1, 2**16, 2**24 - 1), (0, 2**16 - 1)):
        frames = [restamp(data, sequence=sequence, **header) for data in unpack(found.parts[0])]
        said = answer(replace(found, parts=(bundled(frames, ack), *found.parts[1:])).seal())
        assert said.kind in ("train", "trouble")
