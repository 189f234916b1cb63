"""Order of wrappers and mods around ours, and nodes that do not speak fewbits: refused or said, never in silence."""

import logging

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import strategy as flower

import fewbits.flower
import flower_table
from digits_task import mlp, task
from fewbits import methods
from fewbits.engines.common import flower_version
from fewbits.engines.flower import Compressed, Federated, mod
from fewbits.errors import LocalError
from flower_table import CLIP, Measured
from flower_task import DirectGrid, app, grid, node

PAGE = flower_table.PAGE
CLIENTS, TOPK = 4, methods.topk()
FLOWER = flower_version.release(flower_version.installed() or "0")
DP = flower.DifferentialPrivacyServerSideFixedClipping


def initial() -> ArrayRecord:
    return ArrayRecord(mlp().state_dict())


def play(strategy, server_grid, rounds=2, **more):
    return strategy.start(server_grid, initial(), num_rounds=rounds, timeout=5, **more)


def mixed(folder, plain, clients=CLIENTS, method=TOPK):
    """A grid in which the nodes of some clients have an app of another kind."""
    speaking = app(task(clients), [mod(method)])
    return DirectGrid({c + 1: node(plain.get(c, speaking), c, folder, c + 1) for c in range(clients)})


@pytest.mark.skipif(FLOWER < (1, 41), reason="older ones have fewer strategies")
def test_the_page_has_what_every_strategy_wrapper_and_mod_of_flower_does(tmp_path):
    found = flower_table.written(tmp_path)
    assert "SILENCE" not in found and "CLIPS" not in found
    printed = PAGE.read_text().split(flower_table.BEGIN)[1].split(flower_table.END)[0].strip()
    assert printed == found.strip(), "python tests/flower_table.py --write docs/flower-strategies.md"


def test_a_wrapper_around_compress_is_refused_before_anything_is_sent(tmp_path):
    server_grid = grid(app(task(CLIENTS), [mod(TOPK)]), tmp_path, CLIENTS)
    with pytest.raises(LocalError, match=r"put compress outermost: compress\(DifferentialPrivacy\w+\(FedAvg\(\.\.\."):
        play(DP(Compressed(flower.FedAvg(), TOPK), 0.1, 0.5, CLIENTS), server_grid)
    assert server_grid.sent == []


def test_a_strategy_of_the_users_own_around_compress_is_refused_by_its_name(tmp_path):
    class Halving(flower.FedAvg):
        def __init__(self, wrapped):
            super().__init__()
            self.wrapped = wrapped

        def configure_train(self, *rest):
            return list(self.wrapped.configure_train(*rest))[::2]

    server_grid = grid(app(task(CLIENTS), [mod(TOPK)]), tmp_path, CLIENTS)
    with pytest.raises(LocalError, match="Halving is around compress"):
        play(Halving(Federated(TOPK, CLIENTS)), server_grid)


def test_a_loop_by_hand_may_call_the_parts_of_a_round(tmp_path):
    server_grid, strategy = grid(app(task(CLIENTS), [mod(TOPK)]), tmp_path, CLIENTS), Compressed(flower.FedAvg(), TOPK)
    asks = strategy.configure_train(1, initial(), ConfigRecord({}), server_grid)
    arrays, _ = strategy.aggregate_train(1, server_grid.send_and_receive(asks))
    assert arrays is not None


@pytest.mark.parametrize("name", [name for name in flower_table.CLIPPING if name in flower_table.MODS])
def test_a_clip_named_in_the_configuration_holds_after_decoding(tmp_path, name):
    """Without a wrapper: the app's configuration names the norm, as Flower's mods read it."""
    method = methods.named(flower_table.TOPK)
    apps = flower_table.client([mod(method), flower_table.MODS[name]])
    strategy = Compressed(inner := Measured(fraction_evaluate=0.0), method)
    nodes = {c + 1: node(apps, c, tmp_path, c + 1) for c in range(CLIENTS)}
    config = ConfigRecord({"clipping_norm": 0.25})
    strategy.start(DirectGrid(nodes), flower_table.start(), num_rounds=4, timeout=5, train_config=config)
    assert strategy.channel.ledger.messages["up"] == 4 * CLIENTS
    assert 0.2 < inner.longest <= 0.25 * (1 + 1e-5)


class Writing(Measured):
    """Measured, with what came in each round."""

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        self.came = [[x.numpy() for x in r.content["arrays"].values()] for r in replies if r.has_content()]
        return super().aggregate_train(server_round, replies)


def clipped_run(folder, method, arrays, mods=None):
    """How far clients move the model at most, when they are told a clip of 0.25."""
    spoken, inner = methods.named(method), Writing(fraction_evaluate=0.0)
    apps = flower_table.client([mod(spoken)] if mods is None else mods)
    nodes = {c + 1: node(apps, c, folder, c + 1) for c in range(CLIENTS)}
    start, config = ArrayRecord({n: Array(x) for n, x in arrays.items()}), ConfigRecord({"clipping_norm": 0.25})
    Compressed(inner, spoken, exact=["*_exact"] if "c_exact" in arrays else []).start(
        DirectGrid(nodes), start, num_rounds=2, timeout=5, train_config=config
    )
    return inner


WIDE = {"a": np.zeros((4, 3), np.float32), "b": np.zeros(3, np.float32), "c_exact": np.zeros(5)}


def test_a_clip_is_over_all_arrays_those_that_travel_as_they_are_included(tmp_path):
    inner = clipped_run(tmp_path, "topk", WIDE)
    assert 0.2 < inner.longest <= 0.25 * (1 + 1e-5)
    assert all(np.abs(c).max() > 0 and c.dtype == np.float64 for *_, c in inner.came)


def test_plain_nodes_in_a_lossy_run_are_clipped(tmp_path):
    assert 0.2 < clipped_run(tmp_path, "topk", WIDE, mods=[]).longest <= 0.25 * (1 + 1e-5)


def test_a_lossless_method_leaves_what_clients_send_as_it_is(tmp_path):
    """Nothing is added to what a client clipped, so nothing is clipped again."""
    alone = Writing(fraction_evaluate=0.0, min_evaluate_nodes=0)
    nodes = {c + 1: node(flower_table.client([]), c, tmp_path, c + 1) for c in range(CLIENTS)}
    config, start = ConfigRecord({"clipping_norm": 0.25}), ArrayRecord({n: Array(x) for n, x in WIDE.items()})
    alone.start(DirectGrid(nodes), start, num_rounds=2, timeout=5, train_config=config)
    ours = clipped_run(tmp_path / "ours", "dense", WIDE)
    assert ours.longest == pytest.approx(alone.longest) and ours.longest > 1


def test_a_wrapper_that_divides_by_the_number_of_replies_survives_a_round_without_any(tmp_path):
    for name in (name for name in flower_table.WRAPPERS if "Adaptive" in name and hasattr(flower, name)):
        kind = getattr(flower, name)
        server_grid = grid(app(task(CLIENTS), [mod(TOPK)]), tmp_path / kind.__name__, CLIENTS)
        server_grid.change = lambda ask, reply: []
        strategy = Compressed(kind(flower.FedAvg(fraction_evaluate=0.0), 0.0, CLIENTS), TOPK)
        result = play(strategy, server_grid)
        assert result.train_metrics_clientapp == {} and list(result.arrays) == list(initial())


def test_a_server_that_sums_frames_refuses_a_clip(tmp_path):
    server_grid = grid(app(task(CLIENTS), [mod(TOPK)]), tmp_path, CLIENTS)
    with pytest.raises(LocalError, match="cannot clip them again"):
        play(Federated(TOPK, CLIENTS), server_grid, train_config=ConfigRecord({"clipping_norm": CLIP}))


# Nodes that do not speak fewbits


def failing(times, kind=RuntimeError):
    """A mod in front of ours that fails so many times, then lets all messages pass."""
    left = [times]

    def reads(message, context, call_next):
        if left[0] > 0:
            left[0] -= 1
            raise kind("no such record: 'arrays'")
        return call_next(message, context)

    return reads


def test_one_exception_at_a_hello_costs_one_round_and_says_why(tmp_path):
    late = app(task(CLIENTS), [failing(1), mod(TOPK)])
    strategy = Compressed(flower.FedAvg(fraction_evaluate=0.0), TOPK)
    play(strategy, mixed(tmp_path, {2: late}), 3)
    assert strategy.channel.plain_rounds == {3: 1}
    assert strategy.run_store.ledger.messages["up"] == 3 * CLIENTS - 1
    first, last = strategy.channel.notes
    assert "node 3 does not speak fewbits; is fewbits.flower.mod first in its list of mods?" in first
    assert "no such record: 'arrays'" in first
    assert last == "1 node sent plain arrays, 1 times in all; the ledger has no bytes of theirs"


def test_refused_plain_nodes_get_nothing_and_are_counted(tmp_path):
    plain = app(task(CLIENTS), [])
    for strategy in (
        fewbits.flower.compress(flower.FedAvg(), TOPK, plain="refuse"),
        fewbits.flower.federated(TOPK, CLIENTS, plain="refuse"),
    ):
        server_grid = mixed(tmp_path / type(strategy).__name__, {1: plain})
        play(strategy, server_grid, 3)
        assert strategy.channel.refused_rounds == {2: 3} and strategy.channel.plain_rounds.total() == 0
        assert all("arrays" not in asked for number, asked, _ in server_grid.sent if number == 2)
        assert strategy.run_store.ledger.messages["up"] == 3 * (CLIENTS - 1)
        assert "1 node got nothing, by plain='refuse', 3 times in all" in strategy.channel.notes[-1]


def test_plain_is_allow_or_refuse():
    with pytest.raises(LocalError, match="compress: plain must be one of allow, refuse; got 'maybe'"):
        fewbits.flower.compress(flower.FedAvg(), "topk", plain="maybe")  # type: ignore[arg-type]


@pytest.mark.skipif(FLOWER < (1, 30), reason="older mods skip what they cannot read; the server clips in their place")
def test_a_mod_of_flower_before_ours_leaves_the_node_out_with_flowers_sentence(tmp_path):
    wrong = app(task(CLIENTS), [flower_table.MODS["fixedclipping_mod"], mod(TOPK)])
    strategy = Compressed(flower.FedAvg(fraction_evaluate=0.0), TOPK)
    play(strategy, mixed(tmp_path, {0: wrong}), 2)
    (note,) = strategy.channel.notes
    assert "node 1 is left out: on a hello" in note and "fixedclipping_mod expects exactly one ArrayRecord" in note


@pytest.mark.parametrize("how", ["a file in its place", "a file in the run's place", "no database"])
def test_a_folder_that_cannot_be_used_is_named_and_tried_again_each_round(tmp_path, how):
    server_grid = grid(app(task(CLIENTS), [mod(TOPK)]), tmp_path, CLIENTS)
    bad = tmp_path / "bad"
    server_grid.nodes[900].context.node_config["fewbits-state"] = str(bad)
    where = {"a file in its place": bad, "a file in the run's place": bad / "1"}.get(how, bad / "1/0/states-0.sqlite")
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_bytes(b"no database of anybody's" * 100)
    strategy = Compressed(flower.FedAvg(fraction_evaluate=0.0), TOPK)
    configure = strategy.configure_train

    def mending(round, *rest):
        if round == 3:
            where.unlink()
        return configure(round, *rest)

    strategy.configure_train = mending
    play(strategy, server_grid, 3)
    (note,) = strategy.channel.notes
    assert "node 900 is left out: " in note and str(bad) in note
    assert strategy.channel.ledger.messages["up"] == 3 * CLIENTS - 2


def test_an_app_that_answers_a_hello_is_plain(tmp_path):
    answering = ClientApp()

    @answering.train()
    def train(message, context):
        return Message(RecordDict({"arrays": initial(), "m": MetricRecord({"num-examples": 1})}), reply_to=message)

    strategy = Compressed(flower.FedAvg(fraction_evaluate=0.0), TOPK)
    play(strategy, mixed(tmp_path, {0: answering}), 1)
    assert strategy.channel.plain_rounds == {1: 1}


def test_the_log_says_how_many_are_plain_in_each_round(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="flwr")
    play(Compressed(flower.FedAvg(fraction_evaluate=0.0), TOPK), mixed(tmp_path, {0: app(task(CLIENTS), [])}), 2)
    assert caplog.text.count("3 compressed and 1 plain clients") == 2
