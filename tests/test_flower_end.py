"""The beginning and the end of a run on Flower: waiting for nodes, what clients leave on disk, Flower's versions."""

import logging
import tomllib
from contextlib import closing
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, Message
from flwr.serverapp.strategy import FedAvg
from torch import nn

from digits_task import KEY, mlp, task
from fewbits import methods
from fewbits.cli import flower as command
from fewbits.engines.common import flower_version
from fewbits.engines.flower import Compressed, Federated, arrival, mod
from fewbits.engines.flower import envelope as wire
from fewbits.engines.flower.client_end import ClientEnd
from fewbits.engines.flower.envelope import Envelope
from fewbits.errors import LocalError
from flower_task import app, grid

CLIENTS, TOPK = 3, methods.topk()
ROOT = Path(__file__).parents[1]


def play(strategy, server_grid, rounds=2, model=mlp):
    return strategy.start(server_grid, ArrayRecord(model().state_dict()), num_rounds=rounds, timeout=5)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Flower's own folder; in it lies the state of clients whose nodes name no other."""
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "fewbits"


def unnamed(tmp_path, mods):
    found = grid(app(task(CLIENTS), mods), tmp_path, CLIENTS)
    for each in found.nodes.values():
        del each.context.node_config["fewbits-state"]
    return found


def goodbye(reply):
    return wire.opened(wire.value(reply.content)).kind == "goodbye"


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


# What stays on disk


@pytest.mark.parametrize("made", [lambda: Compressed(FedAvg(), TOPK), lambda: Federated(TOPK, CLIENTS)])
def test_a_finished_run_leaves_nothing_in_flowers_folder(tmp_path, home, made, caplog):
    caplog.set_level(logging.INFO, logger="flwr")
    seen, strategy = [], made()
    configure = strategy.configure_evaluate
    strategy.configure_evaluate = lambda *rest: (seen.append(len(files(home))), configure(*rest))[1]
    play(strategy, unnamed(tmp_path, [mod(TOPK)]))
    assert seen[0] >= CLIENTS
    assert list(home.iterdir()) == []
    assert "3 of 3 clients removed the state of this run, " in caplog.text
    assert strategy.channel.notes == []


def test_a_second_start_after_the_goodbye_trains_on(tmp_path, home):
    server_grid, strategy = unnamed(tmp_path, [mod(TOPK)]), Compressed(FedAvg(fraction_evaluate=0.0), TOPK)
    first = play(strategy, server_grid)
    asks = strategy.configure_train(3, first.arrays, flower_config(), server_grid)
    arrays, _ = strategy.aggregate_train(3, server_grid.send_and_receive(asks))
    assert arrays is not None and strategy.channel.notes == []
    assert any(not torch.equal(a, b) for a, b in zip(*map(values, (arrays, first.arrays)), strict=True))


def values(arrays):
    return list(arrays.to_torch_state_dict().values())


def flower_config():
    return wire.ConfigRecord({})


def test_a_run_that_can_go_on_keeps_what_its_clients_need(tmp_path, home, caplog):
    caplog.set_level(logging.INFO, logger="flwr")
    server_grid = unnamed(tmp_path, [mod(TOPK)])
    play(Compressed(FedAvg(fraction_evaluate=0.0), TOPK, state=tmp_path / "server"), server_grid)
    assert len(files(home)) >= CLIENTS
    assert "clients keep their state, so that this run can go on" in caplog.text
    strategy = Compressed(FedAvg(fraction_evaluate=0.0), TOPK, state=tmp_path / "server")
    play(strategy, server_grid, 3)
    assert strategy.channel.notes == []


def test_a_folder_that_a_node_names_is_that_nodes(tmp_path):
    play(Compressed(FedAvg(fraction_evaluate=0.0), TOPK), grid(app(task(CLIENTS), [mod(TOPK)]), tmp_path, CLIENTS))
    assert len(list(tmp_path.glob("1/*/states-0.sqlite"))) == CLIENTS


def test_arrays_that_never_travel_outlive_the_run(tmp_path, home):
    """They are the client's model; the links and the public model go."""
    server_model = lambda: nn.Sequential(mlp()[0])  # noqa: E731
    server_grid = unnamed(tmp_path, [mod(TOPK, KEY, keep=["2.*"])])
    seen = {}

    def change(ask, reply):
        if goodbye(reply):
            seen["bytes"] = wire.opened(wire.value(reply.content)).number("bytes")
        return [reply]

    server_grid.change = change
    play(Compressed(FedAvg(fraction_evaluate=0.0), TOPK, KEY), server_grid, model=server_model)
    assert seen["bytes"] > 0
    for c in range(CLIENTS):
        with closing(ClientEnd(home / "1" / str(c), c, TOPK, KEY)) as end:
            assert set(end.private_arrays()) == {"2.weight", "2.bias"}
            assert all(end.store.get(c, part) is None for part in ("client.up", "client.down", "client.layout"))


@pytest.mark.parametrize("run", ["1", "elsewhere"])
def test_a_goodbye_needs_the_name_that_this_state_told(tmp_path, home, run):
    """Neither another run nor another server may have a client remove what it needs."""
    server_grid, strategy = unnamed(tmp_path, [mod(TOPK)]), Compressed(FedAvg(fraction_evaluate=0.0), TOPK)
    asks = strategy.configure_train(1, ArrayRecord(mlp().state_dict()), flower_config(), server_grid)
    server_grid.send_and_receive(asks)
    before = files(home)
    farewell = Message(Envelope("goodbye", 0, {"run": run, "state": "0" * 16}).seal(), 900, "train")
    (reply,) = server_grid.send_and_receive([farewell])
    said = wire.opened(wire.value(reply.content))
    assert said.kind == "trouble" if run == "1" else said.number("bytes") == 0
    assert files(home) == before


def test_a_client_that_is_gone_at_the_end_ends_nothing(tmp_path, home, caplog):
    caplog.set_level(logging.INFO, logger="flwr")
    server_grid = unnamed(tmp_path, [mod(TOPK)])
    server_grid.change = lambda ask, reply: [] if goodbye(reply) and reply.metadata.src_node_id == 900 else [reply]
    play(Compressed(FedAvg(fraction_evaluate=0.0), TOPK), server_grid)
    assert "2 of 3 clients removed" in caplog.text


def test_a_connection_that_breaks_at_the_goodbye_costs_no_result(tmp_path, home, caplog):
    def broken(ask, reply):
        if goodbye(reply):
            raise ConnectionError("the SuperLink is gone")
        return [reply]

    server_grid = unnamed(tmp_path, [mod(TOPK)])
    server_grid.change = broken
    result = play(Compressed(FedAvg(fraction_evaluate=0.0), TOPK), server_grid)
    assert list(result.train_metrics_clientapp) == [1, 2]
    assert "3 clients may still have the state of this run: the SuperLink is gone" in caplog.text


# Waiting for nodes


class Clock:
    """Time that passes by sleeping alone."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Arriving:
    """A grid to which nodes come at given seconds."""

    def __init__(self, clock, *when):
        self.clock, self.when = clock, when

    def get_node_ids(self):
        return [n for n, second in enumerate(self.when) if second <= self.clock.now]


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(arrival, "time", found)
    return found


def test_waiting_is_said_now_and_then_and_ends(clock, caplog):
    caplog.set_level(logging.INFO, logger="flwr")
    assert arrival.gather(Arriving(clock, 0, 0), 10, 60.0) == 2
    assert clock.now == 60.0
    lines = [record.message for record in caplog.records]
    assert lines[0] == "fewbits: 2 of 10 nodes are here; waiting for at most 60 s more"
    assert "--federation-config num-supernodes=10" in lines[1]
    assert len(lines) == 7 and lines[-1].endswith("at most 10 s more")


def test_waiting_ends_with_the_last_node(clock, caplog):
    caplog.set_level(logging.INFO, logger="flwr")
    assert arrival.gather(Arriving(clock, 0, 5, 7), 3, 60.0) == 3
    assert clock.now == 7.0
    assert arrival.gather(Arriving(clock, 0, 0, 0, 0), 3, 60.0) == 4


def test_without_a_number_those_that_are_here_once_nobody_comes_are_all(clock):
    assert arrival.gather(Arriving(clock, 1, 2, 4, 4, 30), None, 60.0) == 4
    assert 7.0 <= clock.now < 9.0
    with pytest.raises(LocalError, match="no node came within 5 s"):
        arrival.gather(Arriving(clock, 1e9), None, 5.0)


def test_a_run_with_fewer_nodes_than_clients_goes_on_and_notes_it(tmp_path, clock):
    strategy = Federated(TOPK, 5)
    result = play(strategy, grid(app(task(CLIENTS), [mod(TOPK)]), tmp_path, CLIENTS))
    first = "3 of 5 nodes are here after 5 s; the run goes on with them, and others may join"
    assert strategy.channel.notes == [first]
    assert any(not torch.equal(a, b) for a, b in zip(values(result.arrays), mlp().state_dict().values(), strict=True))


def test_without_a_number_of_clients_every_node_trains(tmp_path, clock):
    strategy = Federated(TOPK, None)
    play(strategy, grid(app(task(CLIENTS), [mod(TOPK)]), tmp_path, CLIENTS))
    assert (strategy.clients, strategy.per_round) == (3, 3)
    assert strategy.run_store.ledger.messages["up"] == 2 * CLIENTS


# Flower's versions


def test_an_older_flower_is_refused_with_both_values():
    for found in ("1.20.0", "1.9.3", "0.18"):
        with pytest.raises(LocalError, match=rf"runs on Flower 1\.21 to 1\.42; version {found} is installed"):
            flower_version.check(found)
    with pytest.raises(LocalError, match="needs Flower: pip install"):
        flower_version.check(None)


def test_a_newer_flower_is_said_to_be_newer(caplog):
    flower_version.check("1.43.0.dev20261101")
    assert "tested on Flower 1.21 to 1.42; version 1.43.0.dev20261101 is installed and newer" in caplog.text
    caplog.clear()
    for found in ("1.21.0", "1.41.0", "1.42.9"):
        flower_version.check(found)
    assert caplog.text == ""


def test_the_requirement_and_the_hosted_tests_have_the_same_bounds():
    (oldest, newest) = flower_version.OLDEST, flower_version.NEWEST
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["flower"][0] == f"flwr[simulation]>={oldest[0]}.{oldest[1]},<{newest[0]}.{newest[1] + 1}"
    hosted = (ROOT / ".github/workflows/ci.yml").read_text()
    (line,) = [line for line in hosted.splitlines() if line.strip().startswith("flwr: [")]
    assert f'"{oldest[0]}.{oldest[1]}.0"' in line and f'"{newest[0]}.{newest[1]}.0"' in line


@pytest.mark.parametrize(("installed", "named"), [("1.25.0", True), ("1.26.0", False), ("1.42.0", False)])
def test_a_new_project_names_its_federation_where_flower_reads_it_there(
    tmp_path, monkeypatch, installed, named, capsys
):
    monkeypatch.setattr(flower_version, "installed", lambda: installed)
    command.new(tmp_path / "D E")
    found = tomllib.loads((tmp_path / "D E" / "pyproject.toml").read_text())
    assert ("federations" in found["tool"]["flwr"]) == named
    assert found["project"]["dependencies"] == []
    assert "&& flwr run . --stream" in capsys.readouterr().out
