"""`compress` around every strategy of Flower's: under a lossless method it is as if it were not there."""

import logging
import re
from functools import partial
from unittest.mock import NonCallableMock

import flwr.serverapp.strategy as stock
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, FedAvgM, QFedAvg, Result, Strategy

from fewbits import methods
from fewbits.engines.flower import Compressed, Federated, mod
from fewbits.errors import LocalError
from flower_numpy import CLIENTS, DENSE, dense_grid, model, no_collection, numpy_app, numpy_grid, record, same


def registered(strategy):
    strategy.registered_nodes.update({100 + c: c + 1 for c in range(CLIENTS)})
    return strategy


__all__ = ["no_collection"]  # a fixture of this module, too
KINDS = ("train_metrics_clientapp", "evaluate_metrics_clientapp", "evaluate_metrics_serverapp")
AROUND = (FedAvg, 0.0, 0.5, CLIENTS)  # a strategy, no noise (NumPy's global generator draws it), a clip, clients
MAKE = {
    "Krum": lambda: stock.Krum(num_malicious_nodes=1),
    "MultiKrum": lambda: stock.MultiKrum(num_malicious_nodes=1, num_nodes_to_select=3),
    "Bulyan": lambda: stock.Bulyan(num_malicious_nodes=1),
    "FedXgbCyclic": lambda: registered(stock.FedXgbCyclic()),  # it draws the order of nodes
    "FedAvgM": lambda: FedAvgM(server_learning_rate=0.7, server_momentum=0.9),
    "QFedAvg": lambda: QFedAvg(client_learning_rate=0.1, q=0.2, train_loss_key="loss"),
    "DifferentialPrivacyServerSideFixedClipping": lambda: stock.DifferentialPrivacyServerSideFixedClipping(
        FedAvg(), 0.0, 0.5, CLIENTS
    ),
    "DifferentialPrivacyServerSideAdaptiveClipping": lambda: stock.DifferentialPrivacyServerSideAdaptiveClipping(
        FedAvg(), 0.0, CLIENTS, clipped_count_stddev=0.0
    ),
    "DifferentialPrivacyClientSideFixedClipping": lambda: stock.DifferentialPrivacyClientSideFixedClipping(
        FedAvg(), 0.0, 0.5, CLIENTS
    ),
    "DifferentialPrivacyClientSideAdaptiveClipping": lambda: stock.DifferentialPrivacyClientSideAdaptiveClipping(
        FedAvg(), 0.0, CLIENTS, clipped_count_stddev=0.0
    ),
}
NAMES = sorted(set(stock.__all__) - {"Result", "Strategy", "FedXgbBagging"})


def metrics(client: int, round: int) -> dict:
    return {
        "num-examples": 10 + client,
        "loss": 0.1 * client + round,
        "norm_bit": client % 2,
        "each": [1.0, client / 3],
    }


def judged(round: int, arrays: ArrayRecord) -> MetricRecord:
    return MetricRecord({"norm": float(sum(np.square(x.numpy()).sum() for x in arrays.values()))})


def made(name: str) -> Strategy:
    return MAKE[name]() if name in MAKE else getattr(stock, name)()


def played(strategy: Strategy, folder, mods=(), rounds=2, start=None, clients=CLIENTS, **more) -> Result:
    config = ConfigRecord({"lr": 0.1})
    grid = numpy_grid(numpy_app(list(mods), metrics=metrics), folder, clients)
    return strategy.start(grid, start or model(), num_rounds=rounds, timeout=5, train_config=config, **more)


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_gives_the_same_bits_and_metrics_as_without_us(tmp_path, name):
    """Its own attributes included, such as moments."""
    ours, plain = made(name), made(name)
    found = played(Compressed(ours, DENSE), tmp_path, [mod(DENSE)], evaluate_fn=judged)
    expected = played(plain, tmp_path, evaluate_fn=judged)
    assert same(found.arrays, expected.arrays)
    assert {kind: getattr(found, kind) for kind in KINDS} == {kind: getattr(expected, kind) for kind in KINDS}
    assert str(vars(ours)) == str(vars(plain)) or "object at" in str(vars(plain))


def test_trees_are_refused_because_nothing_in_them_is_a_float(tmp_path):
    with pytest.raises(LocalError, match=r"none of the 1 arrays is of floats \(they are uint8\)"):
        played(Compressed(stock.FedXgbBagging(), DENSE), tmp_path, start=record(**{"0": np.zeros(3, np.uint8)}))


@pytest.mark.parametrize("method", ["dense", "topk", "lbgm+topk"])
def test_arrays_that_are_no_floats_travel_as_they_are(tmp_path, method):
    """And float32 of no dimensions through every method."""
    method = methods.named(method)
    odd = {"count": np.array(2**53 + 1), "seen": np.arange(6, dtype=np.uint8).reshape(2, 3), "mask": np.eye(2) > 0}
    start = ArrayRecord({**model(), **{name: Array(x) for name, x in odd.items()}})

    def train(x, client, round):
        return x + round if x.dtype.kind in "iu" else ~x if x.dtype.kind == "b" else x + np.asarray(0.5, x.dtype)

    class One(FedAvg):
        """Takes the first client's arrays, whose types an average would change."""

        def aggregate_train(self, server_round, replies):
            return next(iter(next(iter(replies)).content.array_records.values())), None

    grid = dense_grid(tmp_path, 2, method, train=train)
    result = Compressed(One(fraction_evaluate=0.0), method).start(grid, start, num_rounds=3, timeout=5)
    assert result.arrays["count"].numpy() == 2**53 + 7 and result.arrays["count"].dtype == "int64"
    np.testing.assert_array_equal(result.arrays["seen"].numpy(), odd["seen"] + 6)
    np.testing.assert_array_equal(result.arrays["mask"].numpy(), ~odd["mask"])
    assert result.arrays["gain"].numpy().shape == ()


def test_bytes_that_travel_as_they_are_count_and_do_not_travel_twice(tmp_path):
    sizes = {}
    for name, arrays in {
        "without": dict(model()),
        "with": {**model(), "table": Array(np.zeros(1000, np.int64))},
    }.items():
        strategy = Compressed(FedAvg(fraction_evaluate=0.0), methods.topk())
        grid = dense_grid(tmp_path / name, 2, methods.topk(), train=lambda x, client, round: x)
        strategy.start(grid, ArrayRecord(arrays), num_rounds=4, timeout=5)
        sizes[name] = strategy.run_store.ledger.frame_bytes
    assert 2 * 8000 < sizes["with"]["down"] - sizes["without"]["down"] < 2 * 2 * 8200  # FedAvg makes floats of it once
    assert sizes["with"]["up"] - sizes["without"]["up"] < 100


@pytest.mark.parametrize("name", ["bn.running_var", "bn/moving_variance", "norm.var", "stats.variance"])
def test_variances_are_never_touched_by_a_lossy_codec(tmp_path, name):
    start = ArrayRecord({"w": Array(np.ones(50, np.float32)), name: Array(np.full(50, 1e-6, np.float32))})
    grid = dense_grid(tmp_path, 3, methods.signsgd(), train=lambda x, c, t: x * np.float32(0.5))
    result = Compressed(FedAvg(fraction_evaluate=0.0), methods.signsgd()).start(grid, start, num_rounds=4, timeout=5)
    np.testing.assert_allclose(result.arrays[name].numpy(), np.full(50, 1e-6 / 16), rtol=1e-5)


def test_patterns_name_what_else_must_be_exact(tmp_path):
    start, method = record(w=np.ones(9, np.float32), spread=np.linspace(1e-9, 3, 9)), methods.topk()
    grid = dense_grid(tmp_path, 1, method, train=lambda x, c, t: x / 3)
    strategy = Compressed(FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1), method, exact="spr*")
    result = strategy.start(grid, start, num_rounds=2, timeout=5)
    np.testing.assert_array_equal(result.arrays["spread"].numpy(), np.linspace(1e-9, 3, 9) / 3 / 3)
    with pytest.raises(LocalError, match=r"exact='\*vra\*' matches no array; there are \['spread', 'w'\]"):
        Compressed(FedAvg(), method, exact=["*vra*"]).start(grid, start, num_rounds=1, timeout=5)


# Runs that go on, and second runs


@pytest.mark.parametrize("name", ["FedAdam", "FedYogi", "FedAdagrad", "FedAvgM", "QFedAvg"])
def test_a_strategy_resumes_to_the_values_of_an_undisturbed_run(tmp_path, name):
    whole = played(Compressed(made(name), DENSE), tmp_path / "whole", [mod(DENSE)], 3, clients=2)
    for rounds in (1, 3):
        wrapped = Compressed(made(name), DENSE, state=tmp_path / "server")
        result = played(wrapped, tmp_path / "clients", [mod(DENSE)], rounds, clients=2)
    assert same(result.arrays, whole.arrays)
    assert sorted(result.train_metrics_clientapp) == [1, 2, 3]


class Counting(FedAvg):
    """A strategy that remembers, as users write them."""

    def __init__(self, **more):
        super().__init__(**more)
        self.best, self.history, self.rng = 0.0, [], object()

    def aggregate_train(self, server_round, replies):
        self.history.append((server_round, {"x": server_round / 3}))
        self.best = float("inf") if server_round == 2 else self.best
        return super().aggregate_train(server_round, replies)


def test_whatever_a_strategy_remembers_is_stored_and_what_cannot_be_is_said(tmp_path, caplog):
    for rounds in (2, 3):
        inner = Counting(fraction_train=1.0 / rounds)
        wrapped = Compressed(inner, DENSE, state=tmp_path / "server")
        played(wrapped, tmp_path / "clients", [mod(DENSE)], rounds, clients=2)
    assert inner.history == [(t, {"x": t / 3}) for t in (1, 2, 3)] and inner.best == float("inf")
    assert inner.fraction_train == 1 / 3  # a setting, which is the new strategy's
    assert "a checkpoint does not hold the strategy's rng (object)" in caplog.text


def test_privacy_that_was_spent_is_never_forgotten(tmp_path):
    inner = made("DifferentialPrivacyServerSideFixedClipping")
    inner.accountant = NonCallableMock()
    with pytest.raises(LocalError, match="a resumed run would forget the privacy that accountant"):
        played(Compressed(inner, DENSE, state=tmp_path / "server"), tmp_path, [mod(DENSE)])


@pytest.mark.parametrize("state", [False, True])
def test_a_second_start_trains_anew(tmp_path, state):
    strategy = Compressed(FedAvg(), DENSE, state=tmp_path / "server" if state else None)
    play = partial(played, strategy, tmp_path, [mod(DENSE)], rounds=1, clients=2)
    first, again = play(), play()
    onward = play(start=first.arrays)
    assert same(first.arrays, again.arrays) and not same(first.arrays, model())
    assert first.train_metrics_clientapp == again.train_metrics_clientapp
    assert not same(onward.arrays, first.arrays)
    start = record(other=np.ones(3, np.float32))
    other = play(start=start)
    assert list(other.arrays) == ["other"] and not same(other.arrays, start)


# The strategy behind the wrapper


class Overriding(FedAvg):
    """As in Flower's advanced example: its own loop, attributes set from outside, files of the best models."""

    def set_place(self, place):
        self.place, self.saved = place, []

    def start(self, grid, initial_arrays, num_rounds=3, timeout=3600, train_config=None, evaluate_fn=None, note=""):
        self.note, self.seen = note, type(self).__name__
        result = super().start(grid, initial_arrays, num_rounds, timeout, train_config, None, evaluate_fn)
        self.saved.append((self.place, sorted(result.evaluate_metrics_serverapp)))
        return result


def test_an_overridden_start_is_the_one_that_runs_and_attributes_are_reached(tmp_path):
    inner = Overriding()
    strategy = Compressed(inner, DENSE)
    strategy.set_place("here")
    strategy.fraction_evaluate = 0.0
    found = played(strategy, tmp_path, [mod(DENSE)], evaluate_fn=judged, note="mine")
    assert strategy.saved == [("here", [0, 1, 2])] and (strategy.note, strategy.seen) == ("mine", "Overriding")
    assert inner.fraction_evaluate == 0.0 and found.evaluate_metrics_clientapp == {}
    assert same(found.arrays, played(FedAvg(), tmp_path).arrays)
    assert strategy.run_store.ledger.frame_bytes["up"] > 0
    del strategy.note
    assert not hasattr(inner, "note") and not hasattr(strategy, "nothing")
    assert "configure_train" not in vars(inner)


def test_a_start_of_its_own_with_rounds_in_it_resumes_where_it_was(tmp_path):
    class Looping(FedAvg):
        def start(self, grid, initial_arrays, rounds):
            self.asked, arrays = [], initial_arrays
            for t in range(1, rounds + 1):
                asks = list(self.configure_train(t, arrays, ConfigRecord(), grid))
                self.asked.append(len(asks))
                arrays = self.aggregate_train(t, grid.send_and_receive(asks))[0] or arrays
            return arrays

    folder = tmp_path / "server"
    whole = Compressed(Looping(), DENSE).start(dense_grid(tmp_path / "whole"), model(), rounds=3)
    Compressed(Looping(), DENSE, state=folder).start(dense_grid(tmp_path / "clients"), model(), rounds=2)
    strategy = Compressed(Looping(), DENSE, state=folder)
    assert same(strategy.start(dense_grid(tmp_path / "clients"), model(), rounds=3), whole)
    assert strategy.asked == [0, 0, CLIENTS]


def lines(caplog) -> list[str]:
    """What Flower logs, without times."""
    found = [re.sub(r"[\d.]+s$", "", r.getMessage()) for r in caplog.records if "fewbits" not in r.getMessage()]
    caplog.clear()
    return found


def test_flowers_log_has_all_of_its_lines(tmp_path, caplog):
    caplog.set_level(logging.INFO, "flwr")
    played(FedAvg(), tmp_path, evaluate_fn=judged)
    plain = lines(caplog)
    played(Compressed(FedAvg(), DENSE), tmp_path, [mod(DENSE)], evaluate_fn=judged)
    assert lines(caplog) == plain and len(plain) > 40


class Watching(FedAvg):
    """Writes down what it is given."""

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        self.given = [*getattr(self, "given", []), [m.error.reason if m.has_error() else "" for m in replies]]
        return super().aggregate_train(server_round, replies)

    def aggregate_evaluate(self, server_round, replies):
        replies = list(replies)
        self.judged = [*getattr(self, "judged", []), sum(m.has_error() for m in replies)]
        return super().aggregate_evaluate(server_round, replies)


def test_failed_replies_and_empty_rounds_reach_the_strategy(tmp_path):
    def metrics(client, round):
        if round == 2 or client == 1:
            raise ValueError(f"client {client} is out of memory")
        return {"num-examples": 0 if client == 2 else 5}

    def change(ask, reply):
        return [] if round_of(ask) == 3 else [reply]

    def round_of(ask):
        return strategy.rounds.last

    grid = dense_grid(tmp_path, 3, metrics=metrics)
    grid.change = change
    strategy = Compressed(Watching(), DENSE)
    result = strategy.start(grid, model(), num_rounds=3, timeout=5)
    assert [len([reason for reason in given if reason]) for given in strategy.given] == [1, 3, 0]
    assert "client 1 is out of memory" in strategy.given[0][2] and strategy.given[2] == []
    assert strategy.judged == [0, 0, 0] and sorted(result.train_metrics_clientapp) == [1]


def test_a_round_in_which_all_replies_weigh_nothing_leaves_the_model_as_it_is(tmp_path):
    for wrap in (lambda: Compressed(FedAvg(), DENSE), lambda: Federated(DENSE, 3)):
        grid = dense_grid(tmp_path / str(id(wrap)), 3, metrics=lambda c, t: {"num-examples": 0})
        strategy = wrap()
        start = record(w=np.ones((2, 3), np.float32))
        result = strategy.start(grid, start, num_rounds=1, timeout=5)
        assert strategy.channel.notes[0] == "round 1: all replies weigh 0; the model stays"
        assert same(result.arrays, start)


@pytest.mark.parametrize("wrap", [lambda: Compressed(FedAvg(), DENSE), lambda: Federated(DENSE, CLIENTS)])
def test_other_metrics_cost_a_client_nothing_but_its_metrics(tmp_path, wrap):
    def metrics(client, round):
        more = {"extra": 1.0} if client == 0 else {"loss": []} if client == 1 else {"loss": client / 7}
        return {"num-examples": 5 + client, **more}

    strategy = wrap()
    result = strategy.start(dense_grid(tmp_path, metrics=metrics), model(), num_rounds=2, timeout=5)
    plain = played(FedAvg(fraction_evaluate=0.0), tmp_path, rounds=2)
    weights = {c: 5 + c for c in range(2, CLIENTS)}
    mean = sum(w * c / 7 for c, w in weights.items()) / sum(weights.values())
    assert result.train_metrics_clientapp[2]["loss"] == pytest.approx(mean)
    assert strategy.quarantine.offences == {} and len(strategy.channel.notes) == 2
    assert "client 0 has other metrics than most" in strategy.channel.notes[0]
    assert not same(result.arrays, model()) and list(result.arrays) == list(plain.arrays)


# Arrays of a strategy's own


def doubled(arrays: ArrayRecord, factor=2) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(x.numpy() * factor).astype(x.dtype)) for name, x in arrays.items()})


OWN = {
    "other arrays for each client": lambda node, arrays: {"arrays": doubled(arrays, node)},
    "a part of the arrays": lambda node, arrays: {"arrays": ArrayRecord({"wide": arrays["wide"]})},
    "the arrays changed": lambda node, arrays: {"arrays": doubled(arrays)},
    "arrays besides the model": lambda node, arrays: {"arrays": arrays, "control": record(c=np.full(3, node))},
    "other names": lambda node, arrays: {"arrays": record(zz=np.arange(node % 5))},
    "no arrays": lambda node, arrays: {},
    "an empty record": lambda node, arrays: {"arrays": ArrayRecord()},
}


class Own(FedAvg):
    """Writes to each node what `content` says, and remembers what comes back."""

    def __init__(self, content, phases=("train", "evaluate")):
        super().__init__()
        self.content, self.phases, self.back = content, phases, []

    def _construct_messages(self, record, node_ids, message_type):
        arrays = record["arrays"]
        return [
            Message(
                RecordDict(
                    {**(self.content(n, arrays) if message_type in self.phases else {"arrays": arrays})}
                    | {"config": record["config"]}
                ),
                n,
                message_type,
            )
            for n in node_ids
        ]

    def aggregate_train(self, server_round, replies):
        replies = [m for m in replies if m.has_content()]
        self.back.extend((m.metadata.src_node_id, dict(m.content.array_records)) for m in replies)
        return None, None


@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize("method", ["dense", "lbgm+topk"])
def test_arrays_of_a_strategys_own_arrive_and_come_back_as_without_us(tmp_path, kind, method):
    found = {}
    for name, mods in {"ours": [mod(methods.named(method))], "plain": []}.items():
        seen = []
        grid = numpy_grid(numpy_app(mods, seen=seen), tmp_path, 3)
        inner = Own(OWN[kind])
        strategy = Compressed(inner, methods.named(method)) if mods else inner
        strategy.start(grid, model(), num_rounds=2, timeout=5)
        found[name] = seen, inner.back
    assert found["ours"] == found["plain"] and len(found["ours"][0]) == 12


def test_own_arrays_and_the_models_may_go_to_different_clients_in_one_round(tmp_path):
    inner = Own(lambda node, arrays: {"arrays": doubled(arrays) if node == 101 else arrays})
    strategy = Compressed(inner, methods.topk())
    strategy.start(dense_grid(tmp_path, 3, methods.topk()), model(), num_rounds=2, timeout=5)
    assert len(strategy.channel.notes) == 2, strategy.channel.notes  # one for training, one for evaluation
    assert "messages to train have arrays that are not the model's" in strategy.channel.notes[0]
    assert {(node, len(arrays)) for node, arrays in inner.back} == {(100, 1), (101, 1), (102, 1)}
    assert strategy.quarantine.offences == {}


def test_what_no_array_of_numbers_is_and_two_messages_to_one_node_are_refused_by_name(tmp_path):
    odd = {"arrays": ArrayRecord({"x": Array("object", (1,), "pickle", b"..")})}
    with pytest.raises(LocalError, match=r"message to client [012]: array 'x' of 'arrays' is a pickle"):
        Compressed(Own(lambda n, a: odd), DENSE).start(dense_grid(tmp_path, 3), model(), num_rounds=1, timeout=5)

    class Twice(FedAvg):
        def configure_train(self, *args):
            return [*super().configure_train(*args), *super().configure_train(*args)]

    with pytest.raises(LocalError, match=r"writes to node 10\d twice in round 1"):
        Compressed(Twice(), DENSE).start(dense_grid(tmp_path, 3), model(), num_rounds=1, timeout=5)


# Methods that a strategy cannot carry


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("fedper", "leaves layers with the clients"),
        ("local", "leaves layers with the clients"),
        ("fedprox", "changes how clients train"),
        ("scaffold", "changes how clients train"),
        ("fedadam", "the strategy takes the step"),
        ("fedyogi", "the strategy takes the step"),
        ("dense@momentum=0.9", "the strategy takes the step"),
        ("fetchsgd", "the strategy takes the step"),
        ("intrinsic@local=outside", "use fewbits.flower.federated"),
        ("dp", "protects clients"),
        ("masked", "protects clients"),
    ],
)
def test_a_method_with_parts_beside_its_bytes_is_refused_by_name(method, sentence):
    with pytest.raises(LocalError, match=sentence):
        Compressed(FedAvg(), methods.named(method))


@pytest.mark.parametrize("method", ["fedpara", "pfedpara", "lowrank", "fedpara+topk"])
def test_a_method_of_factors_refuses_a_model_that_has_none(tmp_path, method):
    method = methods.named(method)
    for strategy in (Compressed(FedAvg(), method), Federated(method, 1)):
        with pytest.raises(LocalError, match="none of the arrays is a factor"):
            strategy.start(dense_grid(tmp_path, 1), model(), num_rounds=1, timeout=1)


def test_a_clients_half_of_a_method_that_keeps_arrays_must_name_them():
    for method in ("fedper", "local", "pfedpara"):
        with pytest.raises(LocalError, match=r"name them in keep="):
            mod(methods.named(method))
    mod(methods.named("fedper"), keep=["head.*"])


def test_an_error_message_of_flowers_own_stays_what_it_is(tmp_path):
    grid = dense_grid(tmp_path, 2)
    grid.change = lambda ask, reply: [Message(Error(5, "gone"), reply_to=ask)] if len(grid.sent) == 3 else [reply]
    strategy = Compressed(Watching(fraction_evaluate=0.0), DENSE)
    strategy.start(grid, model(), num_rounds=1, timeout=5)
    assert strategy.given == [["", "gone"]]


def test_what_the_evaluation_at_the_server_raises_costs_its_metrics_alone(tmp_path, caplog):
    def failing(round, arrays):
        if round == 1:
            raise ZeroDivisionError("no example")
        return judged(round, arrays)

    found = played(Compressed(FedAvg(), DENSE), tmp_path, [mod(DENSE)], evaluate_fn=failing)
    assert sorted(found.evaluate_metrics_serverapp) == [0, 2]
    assert any(
        "round 1: the evaluation at the server failed: ZeroDivisionError: no example" in x for x in caplog.messages
    )
    with pytest.raises(ZeroDivisionError):  # before any training it is a mistake to correct
        played(Compressed(FedAvg(), DENSE), tmp_path / "b", [mod(DENSE)], evaluate_fn=lambda round, arrays: 1 / round)
