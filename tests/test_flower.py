"""The engine `flower` against the engine `memory` and against Flower's own strategies, without a network."""

from contextlib import closing

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import strategy as theirs
from flwr.serverapp.strategy import FedAdam, FedAvg
from torch import nn

import fewbits.flower
from digits_task import KEY, federation, filled, mlp, model_bytes, task
from fewbits import methods
from fewbits.engines.flower import Compressed, Federated, mod
from fewbits.engines.flower import envelope as wire
from fewbits.engines.flower.client_end import ClientEnd
from fewbits.errors import LocalError
from fewbits.learn import Method
from fewbits.links.bundle import unpack
from flower_task import DirectGrid, app, grid, node

CLIENTS, ROUNDS = 6, 4


def initial(model=mlp) -> ArrayRecord:
    return ArrayRecord(model().state_dict())


def record_bytes(arrays: ArrayRecord) -> bytes:
    return b"".join(x.numpy().tobytes() for x in arrays.values())


def play(strategy, server_grid: DirectGrid, rounds: int = ROUNDS, model=mlp, **more):
    return strategy.start(server_grid, initial(model), num_rounds=rounds, timeout=5, **more)


def frames(server_grid: DirectGrid) -> dict[tuple[int, int, str], bytes]:
    """(round, client, direction) -> bundle or frame, for train messages, as they were on the wire."""
    found = {}
    for number, ask, reply in server_grid.sent:
        client = server_grid.nodes[number].context.node_config["partition-id"]
        asked = wire.opened(wire.value(ask)) if wire.value(ask) else None
        if asked is not None and asked.kind == "train":
            found[asked.round, client, "down"] = asked.parts[0]
            answer = wire.opened(wire.value(reply))
            if answer.kind == "train":
                found[asked.round, client, "up"] = answer.parts[0]
    return found


def mean_update(arrays: ArrayRecord, start: ArrayRecord) -> float:
    return max(float(np.abs(arrays[n].numpy() - start[n].numpy()).max()) for n in arrays)


METHODS = {
    "lbgm+topk": methods.lbgm_topk(threshold=0.9, fraction=0.2),
    "topk": methods.topk(),
    "randk": methods.randk(),
    "signsgd, dense downlink": methods.signsgd(down="dense"),
    "lbgm, momentum": methods.lbgm(threshold=0.5, momentum=0.9),
    "intrinsic, epochs": methods.build(
        "intrinsic", {"dim": "64", "mode": "time-varying", "epoch": "2", "local": "outside"}
    ),
    "intrinsic, k": methods.build(
        "intrinsic+topk", {"dim": "32", "mode": "k-subspace", "k": "2", "local": "outside", "down": "dense"}
    ),
}


@pytest.mark.parametrize(
    ("name", "per_round"), [*((name, 3) for name in METHODS), ("lbgm+topk", CLIENTS), ("randk", CLIENTS)]
)
def test_the_same_frames_and_the_same_model_as_in_memory(tmp_path, name, per_round):
    seen, method = {}, METHODS[name]
    run = federation(method, rounds=ROUNDS, per_round=per_round)
    run.tap = lambda round, client, way, message: seen.update({(round, client, way): message})
    run.run()
    server_grid = grid(app(task(), [mod(method, KEY)]), tmp_path)
    strategy = Federated(method, CLIENTS, per_round, KEY, evaluate=0.0)
    result = play(strategy, server_grid)
    assert record_bytes(result.arrays) == model_bytes(run.task.model)
    ups = {place: frame for place, frame in seen.items() if place[2] == "up"}
    assert ups == {place: frame for place, frame in frames(server_grid).items() if place[2] == "up"}
    assert strategy.run_store.ledger.frame_bytes == run.ledger.frame_bytes
    assert strategy.run_store.ledger.payload_bytes == run.ledger.payload_bytes
    assert strategy.channel.notes == []


def test_a_factored_model_is_trained_as_in_memory(tmp_path):
    method = methods.build("fedpara+topk")

    def factored() -> nn.Module:
        model = mlp()
        method.prepare(model, KEY.fold("factor"))
        return model

    run = federation(method, rounds=ROUNDS)
    run.run()
    server_grid = grid(app(task(), [mod(method, KEY)], factored), tmp_path)
    result = play(Federated(method, CLIENTS, key=KEY, evaluate=0.0), server_grid, model=factored)
    assert record_bytes(result.arrays) == model_bytes(run.task.model)


def inside(method: Method):
    def build() -> nn.Module:
        model = mlp()
        method.prepare(model, KEY.fold("factor"))
        return model

    return build


@pytest.mark.parametrize("mode", ["static", "time-varying", "k-subspace", "growing"])
@pytest.mark.parametrize("name", ["intrinsic", "intrinsic+deadzone"])
def test_coordinates_are_trained_as_in_memory(tmp_path, name, mode):
    settings = {"dim": "48", "mode": mode, "k": "3", "epoch": "2", "down": "delta8"}
    method, seen = methods.build(name, settings), {}
    run = federation(method, rounds=ROUNDS, per_round=3)
    run.tap = lambda round, client, way, message: seen.update({(round, client, way): message})
    run.run()
    build = inside(method)
    server_grid = grid(app(task(), [mod(method, KEY)], build, method=method), tmp_path)
    strategy = Federated(method, CLIENTS, 3, KEY, evaluate=0.0)
    result = play(strategy, server_grid, model=build)
    assert record_bytes(result.arrays) == model_bytes(run.task.model)
    ups = {place: frame for place, frame in seen.items() if place[2] == "up"}
    assert ups == {place: frame for place, frame in frames(server_grid).items() if place[2] == "up"}
    assert strategy.run_store.ledger.frame_bytes["up"] == run.ledger.frame_bytes["up"]


@pytest.mark.parametrize("strategy", [Federated, lambda method, _, key: Compressed(FedAvg(), method, key)])
def test_a_model_that_the_app_did_not_prepare_is_refused(tmp_path, strategy):
    method = methods.build("intrinsic", {"dim": "48"})
    server_grid = grid(app(task(), [mod(method, KEY)]), tmp_path)
    with pytest.raises(LocalError, match=r"no array is 'coordinates' of 48 numbers; .* call method.prepare"):
        play(strategy(method, CLIENTS, KEY), server_grid)


def test_a_strategy_averages_coordinates_as_any_array(tmp_path):
    method = methods.build("intrinsic", {"dim": "48"})
    run = federation(method, rounds=ROUNDS)
    run.run()
    server_grid = grid(app(task(), [mod(method, KEY)], inside(method), method=method), tmp_path)
    result = play(Compressed(FedAvg(), method, KEY), server_grid, model=inside(method))
    found = result.arrays["coordinates"].numpy()
    np.testing.assert_allclose(found, run.task.model.coordinates.detach().numpy(), atol=1e-5)


# Around a strategy of the user's own

STRATEGIES = {
    "FedProx": lambda **more: theirs.FedProx(proximal_mu=0.1, **more),
    "FedAdam": FedAdam,
    "FedMedian": lambda **more: theirs.FedMedian(**more),
}


@pytest.mark.parametrize("name", [name for name in STRATEGIES if hasattr(theirs, name)])  # the oldest Flower has fewer
def test_a_lossless_method_leaves_a_strategy_as_it_is(tmp_path, name):
    """Metrics, their own aggregation, configuration and evaluation included."""
    reported, dense = [], methods.dense()

    def weighed(records, key):
        return MetricRecord({"largest": max(r["metrics"]["loss"] for r in records), "clients": len(records)})

    def judged(round, arrays):
        return MetricRecord({"norm": float(sum(np.square(x.numpy()).sum() for x in arrays.values()))})

    def played(mods, wrap, folder):
        server_grid = grid(app(task(), mods), folder)
        strategy = wrap(STRATEGIES[name](train_metrics_aggr_fn=weighed))
        config = ConfigRecord({"lr": 0.1, "names": ["a", "b"], "blob": b"\x00\xff", "on": True})
        result = play(strategy, server_grid, train_config=config, evaluate_fn=judged)
        reported.append(dict(config))
        return result

    plain = played([], lambda strategy: strategy, tmp_path / "plain")
    ours = played([mod(dense)], lambda strategy: Compressed(strategy, dense), tmp_path / "ours")
    assert reported[0] == reported[1]
    for name in ours.arrays:
        np.testing.assert_allclose(ours.arrays[name].numpy(), plain.arrays[name].numpy(), rtol=0, atol=2e-6)
    for kind in ("train_metrics_clientapp", "evaluate_metrics_clientapp", "evaluate_metrics_serverapp"):
        ours_of_kind, plain_of_kind = getattr(ours, kind), getattr(plain, kind)
        assert list(ours_of_kind) == list(plain_of_kind)
        for round, record in plain_of_kind.items():
            assert dict(ours_of_kind[round]) == pytest.approx(dict(record), abs=1e-5)


def test_around_fedavg_the_model_is_that_of_our_own_server_to_rounding(tmp_path):
    method = METHODS["lbgm+topk"]
    results = [
        play(strategy, grid(app(task(), [mod(method, KEY)]), tmp_path / str(i)))
        for i, strategy in enumerate([Compressed(FedAvg(), method, KEY), Federated(method, CLIENTS, key=KEY)])
    ]
    for name in results[0].arrays:
        both = [result.arrays[name].numpy() for result in results]
        np.testing.assert_allclose(*both, rtol=0, atol=1e-3)  # where dither falls otherwise, a level's width


def test_the_apps_own_functions_see_the_configuration_and_plain_arrays(tmp_path):
    seen, method = [], METHODS["topk"]
    client_app = app(
        task(), [mod(method), lambda message, context, go: (seen.append(message.content), go(message, context))[1]]
    )
    play(Compressed(FedAvg(), method), grid(client_app, tmp_path), 1, train_config=ConfigRecord({"lr": 0.25}))
    train = [content for content in seen if "config" in content and "lr" in content["config"]]
    assert len(train) == CLIENTS
    assert all(content["config"]["server-round"] == 1 and content["config"]["lr"] == 0.25 for content in train)
    assert all(list(content["arrays"]) == list(initial()) for content in seen)


class Normed(nn.Module):
    """BatchNorm: float statistics and an integer counter in the state_dict."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))

    def forward(self, x):
        return self.net(x)


def test_running_statistics_go_as_they_are_and_counters_stay_where_they_are(tmp_path):
    method = METHODS["topk"]
    model = lambda: filled(Normed())  # noqa: E731
    run = federation(method, rounds=ROUNDS, task=task(model=model))
    run.run()
    server_grid = grid(app(task(), [mod(method, KEY)], model), tmp_path)
    result = play(Federated(method, CLIENTS, key=KEY, evaluate=0.0), server_grid, model=model)
    assert record_bytes(result.arrays) == model_bytes(run.task.model)
    assert int(result.arrays["net.1.num_batches_tracked"].numpy()) == 0


def test_evaluation_costs_no_second_download(tmp_path):
    """What a client has heard for evaluation it does not hear again for training."""
    method, totals = METHODS["topk"], []
    for share in (0.0, 1.0):
        strategy = Compressed(FedAvg(fraction_evaluate=share), method)
        play(strategy, grid(app(task(), [mod(method)]), tmp_path / str(share)))
        totals.append(strategy.run_store.ledger.frame_bytes["down"])
    last_entry_and_empty_bundles = totals[1] - totals[0]
    assert last_entry_and_empty_bundles < 1.4 * totals[0] / ROUNDS


def test_two_plain_clients_and_four_compressed_ones_train_together(tmp_path):
    method = methods.dense()
    speaking, plain = app(task(), [mod(method)]), app(task(), [])
    stock = play(FedAvg(), grid(plain, tmp_path / "stock"))
    for strategy in (Compressed(FedAvg(), method), Federated(method, CLIENTS)):
        folder = tmp_path / type(strategy).__name__
        nodes = {c + 1: node(plain if c in (1, 4) else speaking, c, folder, c + 1) for c in range(CLIENTS)}
        result = play(strategy, DirectGrid(nodes))
        assert [note.split(";")[0] for note in strategy.channel.notes] == [
            "node 2 does not speak fewbits",
            "node 5 does not speak fewbits",
            "2 nodes sent plain arrays, 8 times in all",
        ]
        for name in stock.arrays:
            np.testing.assert_allclose(result.arrays[name].numpy(), stock.arrays[name].numpy(), rtol=0, atol=1e-5)


def test_arrays_that_are_kept_never_travel_and_come_back_to_their_client(tmp_path):
    """FedPer by hand: the last layer stays, every client's own."""
    method, server_model = methods.topk(), lambda: nn.Sequential(mlp()[0])
    server_grid = grid(app(task(), [mod(method, KEY, keep=["2.*"])]), tmp_path)
    result = play(Compressed(FedAvg(fraction_evaluate=0.0), method, KEY), server_grid, model=server_model)
    assert list(result.arrays) == ["0.weight", "0.bias"]
    run = federation(Method("fedper", method.up, method.down, private=("2.*",)), rounds=ROUNDS, folder=tmp_path / "run")
    run.run()
    theirs = [run.client_model(c).state_dict()["2.weight"] for c in range(CLIENTS)]
    for c in range(CLIENTS):
        with closing(ClientEnd(tmp_path / "1" / str(c), c, method, KEY)) as end:
            torch.testing.assert_close(end.private_arrays()["2.weight"], theirs[c], rtol=0, atol=1e-2)
            assert set(end.private_arrays()) == {"2.weight", "2.bias"}


def test_float16_and_float64_arrays_come_out_in_their_own_types(tmp_path):
    client_app, method = ClientApp(mods=[mod(methods.dense())]), methods.dense()
    start = ArrayRecord(
        {"a": Array(np.ones(3, np.float16)), "b": Array(np.ones((2, 2), np.float64)), "n": Array(np.arange(3))}
    )

    @client_app.train()
    def train(message, context):
        moved = {n: x.numpy() + (n != "n") for n, x in message.content["arrays"].items()}
        arrays = ArrayRecord({n: Array(x.astype(start[n].dtype)) for n, x in moved.items()})
        return Message(RecordDict({"arrays": arrays, "m": MetricRecord({"num-examples": 1})}), reply_to=message)

    strategy = Compressed(FedAvg(fraction_evaluate=0.0), method)
    result = strategy.start(grid(client_app, tmp_path, 2), start, num_rounds=2, timeout=5)
    assert {n: x.numpy().tolist() for n, x in result.arrays.items()} == {
        "a": [3.0] * 3,
        "b": [[3.0] * 2] * 2,
        "n": [0, 1, 2],
    }


# The public names


def test_two_lines_are_enough(tmp_path):
    client_app = app(task(), [fewbits.flower.mod("lbgm+topk")])
    strategy = fewbits.flower.compress(FedAvg(), method="lbgm+topk", downlink="delta8")
    result = play(strategy, grid(client_app, tmp_path))
    assert mean_update(result.arrays, initial()) > 0
    assert strategy.channel.notes == []
    assert strategy.run_store.ledger.frame_bytes["up"] > 0


def test_methods_that_change_training_are_refused_by_name():
    for name in ("scaffold", "feddyn"):
        with pytest.raises(LocalError, match=f"{name} changes how clients train"):
            fewbits.flower.mod(name)
    with pytest.raises(LocalError, match="a method is a text such as"):
        fewbits.flower.compress(FedAvg(), 7)
    with pytest.raises(LocalError, match="settings are for a method given as text"):
        fewbits.flower.compress(FedAvg(), methods.dense(), settings={"bits": "8"})


def test_bundles_hold_the_layout_only_for_those_who_know_nothing(tmp_path):
    method = METHODS["topk"]
    server_grid = grid(app(task(), [mod(method)]), tmp_path)
    play(Compressed(FedAvg(fraction_evaluate=0.0, min_evaluate_nodes=0), method), server_grid)
    parts = [len(wire.opened(wire.value(ask)).parts) for _, ask, _ in server_grid.sent]
    assert parts == [0] * CLIENTS + [2] * CLIENTS + [1] * CLIENTS * (ROUNDS - 1)
    assert all(unpack(wire.opened(wire.value(ask)).parts[0]) for _, ask, _ in server_grid.sent[CLIENTS:])
