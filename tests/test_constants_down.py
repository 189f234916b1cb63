"""Laws of buffers on downlinks of whole models: a constant travels at first contact alone, and nothing else changes."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import fewbits as fb
from digits_task import KEY, digits, evidence, federation, filled, task
from fewbits.analysis.forecast import forecast
from fewbits.codecs import Raw, SinceStart, flat, route
from fewbits.engines.flower import Federated
from fewbits.links import SharedInit, StartedBroadcast, StartedSubscriber
from fewbits.links.bundle import pack, unpack
from fewbits.links.ledger import read
from fewbits.methods import build
from flower_numpy import dense_grid, no_collection, record

__all__ = ["no_collection"]  # a fixture of this module, too
DOWN = ["dense", "fp16"]
TABLE = 700  # numbers of constants that travel: 2,800 bytes
FEW = 12  # bytes that say which numbers are not constant


class Net(nn.Module):
    """BatchNorm, and with `constants` a causal mask and a cached table, which training leaves as they are."""

    def __init__(self, constants):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10))
        table = torch.linspace(-3, 3, TABLE - 100).sin()
        table[::7] = -0.0
        self.register_buffer("table", table if constants else None)
        self.register_buffer("causal", torch.ones(10, 10).tril() if constants else None)
        self.constants = constants

    def forward(self, x):
        x = self.layers(x)
        return x @ self.causal.T * 0.1 + x + 0 * self.table.sum() if self.constants else x


def made(constants=True):
    return filled(Net(constants))


def bits(model):
    return {name: x.detach().numpy().tobytes() for name, x in model.state_dict().items() if x.is_floating_point()}


def train(model, number):
    x, y = digits()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.zero_grad()
    rows = slice(20 * number, 20 * number + 20)
    nn.functional.cross_entropy(model.train()(x[rows]), y[rows]).backward()
    optimizer.step()


def pair(down, constants=True, clients=3, **more):
    method = fb.methods.dense(down=down)
    server = fb.Server(made(constants), method, fb.Key(0), **more)
    new = {"build": more["init"].build} if "init" in more else {}
    return server, [fb.Client(made(constants), method, fb.Key(1 + i), number=i, **new) for i in range(clients)]


def play(server, clients, rounds, there=lambda round, client: True):
    """The length of each bundle, by round and client."""
    found = {}
    for round in range(rounds):
        present = [i for i in range(len(clients)) if there(round, i)]
        server.expect(present)
        frames = {}
        for i in present:
            bundle = server.bundle(i)
            found[round, i] = len(bundle)
            clients[i].receive(bundle)
            whole = bits(server.model) if server.method.down == flat(Raw()) else statistics(server.model)
            assert whole.items() <= bits(clients[i].model).items()
            train(clients[i].model, i)
            frames[i] = clients[i].reply()
        for i in present:
            assert server.accept(i, frames[i], 1.0) is not None, server.reasons
        server.step()
    return found


def statistics(model):
    return {name: x.numpy().tobytes() for name, x in model.named_buffers() if x.is_floating_point()}


@pytest.mark.parametrize("down", DOWN)
def test_constants_cost_nothing_after_first_contact_and_statistics_are_exact(down):
    """One client comes in every round, one in every third, and one for the first time in the last."""
    there = lambda round, client: (True, round % 3 == 0, round == 6)[client]  # noqa: E731
    with_them, without = (play(*pair(down, constants), 7, there) for constants in (True, False))
    new = {(0, 0), (0, 1), (6, 2)}
    for place, length in with_them.items():
        more = length - without[place]
        assert 0 <= more - 4 * TABLE <= FEW if place in new else 0 <= more <= FEW, (place, length, without[place])
    assert without[0, 0] + 36 < without[6, 2], "statistics have changed since, and travel twice at first contact"


@pytest.mark.parametrize("down", DOWN)
@pytest.mark.parametrize("late", [0, 3])
def test_a_seed_stands_for_constants_too(down, late):
    def build(key):
        torch.manual_seed(key.seed)
        return Net(True)

    init = SharedInit(fb.Key(5), build)
    method = fb.methods.dense(down=down)
    server = fb.Server(build(fb.Key(5)), method, fb.Key(0), init=init)
    clients = [fb.Client(made(), method, fb.Key(1 + i), number=i, build=build) for i in range(2)]
    found = play(server, clients, 5, lambda round, client: client == 0 or round >= late)
    parameters = 2 * sum(p.numel() for p in made().parameters()) if down == "fp16" else 0  # which no seed gives
    assert found[0, 0] - parameters < 100
    assert found[late, 1] - (found[late, 0] if late else parameters) < 100


@pytest.mark.parametrize("down", DOWN)
def test_stored_ends_go_on_bit_for_bit(down):
    """Both ends are new objects after every round, whose models were other ones; one client misses rounds."""
    there = lambda round, client: (True, round % 2 == 0, round == 4)[client]  # noqa: E731
    server, clients = pair(down)
    expected = play(server, clients, 6, there)
    again, ends = pair(down)
    found = {}
    for round in range(6):
        lengths = play(again, ends, 1, lambda _, client, round=round: there(round, client))
        found |= {(round, client): length for (_, client), length in lengths.items()}
        stored, dumps = copy.deepcopy(again.dump()), [end.dump() for end in ends]
        old, (again, ends) = again, other_pair(down)
        again.load(round + 1, stored, old.versions)
        again.uplinks = old.uplinks  # a StateStore has these
        for end, dump in zip(ends, dumps, strict=True):
            end.load(dump)
    assert found == expected and bits(again.model) == bits(server.model)


def other_pair(down):
    """Ends of models with other numbers, the constants among them."""
    _, clients = pair(down)
    method = fb.methods.dense(down=down)
    model = made()
    for x in [*model.parameters(), model.table, model.causal]:
        x.data.add_(1.0)
    return fb.Server(model, method, fb.Key(0)), clients


@pytest.mark.parametrize("method", ["dense", "dense@down=fp16", "masked", "intrinsic@dim=16", "topk@down=dense"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(method, tmp_path):
    def run(name, **settings):
        return federation(build(*split(method)), tmp_path / name, task=task(model=made), per_round=3, **settings)

    whole = run("whole", rounds=6)
    whole.run()
    parts = run("parts", rounds=6)
    parts.run(stop=lambda: parts.server.round == 3)
    parts = run("parts", rounds=6, processes=2)
    parts.run()
    assert evidence(parts) == evidence(whole)


def split(text):
    name, _, options = text.partition("@")
    return name, dict(option.split("=") for option in options.split(",") if option)


@pytest.mark.parametrize("down", DOWN)
def test_a_plan_counts_constants_as_changed_and_first_contact_exactly(down):
    """Statistics do change: `tests/test_plan.py` has such runs, which agree to the byte."""
    (line,) = forecast(made, build("dense", {"down": down}), 6, 3, 5, KEY)
    run = federation(build("dense", {"down": down}), rounds=5, per_round=3, task=task(model=made))
    run.run()
    contacts = 3 * 4  # after the first round
    more = line.down_total - run.ledger.frame_bytes["down"]
    assert line.basis == "random update" and contacts * (4 * TABLE - FEW) <= more <= contacts * 4 * TABLE


@pytest.mark.parametrize("down", DOWN)
def test_a_buffer_that_a_server_replaces_arrives_with_the_sign_of_zero(down):
    server, clients = pair(down, clients=2)
    play(server, clients, 1)
    theta = server.flat.named()
    changed = torch.where(torch.arange(TABLE - 100) % 3 == 0, -0.0, 0.0)
    changed[5] = 7.5
    server.replace(theta | {"table": changed})
    for number, client in enumerate(clients):
        client.receive(server.bundle(number))
        assert client.model.table.numpy().tobytes() == changed.numpy().tobytes()


@pytest.mark.parametrize("down", DOWN)
def test_on_flower_too(tmp_path, down):
    """Statistics of a BatchNorm that is frozen; a strategy's own mean would round them."""
    method, bytes_of = fb.methods.dense(down=down), {}
    move = lambda x, client, round: x + np.float32(client + round) if x.ndim == 2 else x  # noqa: E731
    for size in (1, TABLE):
        start = {"w": np.ones((2, 3), np.float32), "bn__running_var": np.linspace(0.1, 1, size, dtype=np.float32)}
        strategy = Federated(method, 3, evaluate=0.0, state=tmp_path / f"server {size}")
        grid = dense_grid(tmp_path / f"{size}", 3, method, train=move)
        found = strategy.start(grid, record(**start), num_rounds=4, timeout=5).arrays["bn.running_var"]
        assert found.numpy().tobytes() == start["bn__running_var"].tobytes()
        entries = [x for x in read(tmp_path / f"server {size}" / "ledger.jsonl") if x.direction == "down"]
        bytes_of[size] = {(entry.round, entry.client): entry.frame_bytes for entry in entries}
    for place, length in bytes_of[TABLE].items():
        assert length - bytes_of[1][place] - (4 * (TABLE - 1) if place[0] == 1 else 0) in range(-2, 3)


# the two ends alone

CODEC = route([("buffer:*", SinceStart()), ("*", Raw("fp16"))])


def value(version):
    x = torch.arange(20.0)
    x[:version] = -0.0
    return {"w": torch.full((3,), float(version)), "buffer:x": x}


SPEC, START = fb.Spec.of(value(0)), {"buffer:x": value(0)["buffer:x"]}


def ends(start=START):
    return StartedBroadcast(CODEC, SPEC, fb.Key(0), start), StartedSubscriber(CODEC, SPEC, fb.Spec.of(START))


def same(one, other):
    return all(one[name].numpy().tobytes() == x.numpy().tobytes() for name, x in other.items())


def test_a_receiver_with_another_start_is_told_and_not_given_other_numbers():
    server, client = ends()
    other, _ = ends({"buffer:x": START["buffer:x"] + 1})
    for one in (server, other):
        one.publish(value(1))
    assert same(client.receive(server.bundle(None)), value(1))
    other.publish(value(2))
    with pytest.raises(fb.DesyncError, match="the ends differ"):
        client.receive(other.bundle(1))
    assert same(client.value, value(1)) and same(client.receive(other.bundle(None)), value(2))
    with pytest.raises(fb.DesyncError, match="the ends differ"):
        server.publish(value(2))
        server.publish(value(3))
        client.receive(server.bundle(2))


def test_a_bundle_that_fails_leaves_the_start_as_it_was():
    server, client = ends()
    server.publish(value(1))
    client.receive(server.bundle(None))
    other, _ = ends({"buffer:x": START["buffer:x"] + 1})
    other.publish(value(1))
    other.publish(value(2))
    first, entry = unpack(other.bundle(None))
    held = client.dump()
    for bad in (entry[:-1] + bytes([entry[-1] ^ 1]), entry[:-1], first):
        with pytest.raises(fb.WireError):
            client.receive(pack([first, bad]))
        assert client.dump() == held and same(client.start, START)
    server.publish(value(2))
    assert same(client.receive(server.bundle(1)), value(2))


def test_a_start_is_kept_by_an_end_that_was_stored_before_any_entry_came():
    seeds = SharedInit(fb.Key(1), lambda key: value(1)), SharedInit(fb.Key(1), lambda key: START)
    server = StartedBroadcast(CODEC, SPEC, fb.Key(0), START, seed=seeds[0], start_seed=seeds[1])
    builds = seeds[0].build, seeds[1].build
    client = StartedSubscriber(CODEC, SPEC, fb.Spec.of(START), *builds)
    server.publish(value(1))
    client.receive(server.bundle(None))
    again = StartedSubscriber(CODEC, SPEC, fb.Spec.of(START), *builds)
    again.load(client.dump())
    server.publish(value(2))
    assert same(again.receive(server.bundle(1)), value(2)) and same(again.start, START)
    loaded, _ = ends({"buffer:x": START["buffer:x"] + 1})
    loaded.load(server.dump())
    assert loaded.bundle(None) == server.bundle(None) and loaded.dump() == server.dump()
    assert same(loaded.value, value(2)) and same(loaded.start, START)


@pytest.mark.parametrize("numbers", [0, 19])
def test_a_start_without_what_the_codec_needs_is_refused(numbers):
    start = {"theta0": torch.ones(2)} | ({"buffer:x": torch.ones(numbers)} if numbers else {})
    with pytest.raises(fb.LocalError, match=r"the start must have 'buffer:x' as the value has it; got theta0"):
        StartedBroadcast(CODEC, SPEC, fb.Key(0), start)
    with pytest.raises(fb.LocalError, match=r"the start must have 'buffer:x'"):
        StartedSubscriber(CODEC, SPEC, fb.Spec.of(start))
