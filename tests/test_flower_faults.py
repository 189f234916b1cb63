"""What goes wrong in a federation: lost state, servers that die, replies that lie, nodes that come and go."""

import io
import re
import shutil
from contextlib import closing

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAdam, FedAvg

from digits_task import KEY, mlp, task
from every_codec import restamp
from fewbits import methods
from fewbits.engines.flower import Compressed, Federated, Quarantine, mod
from fewbits.engines.flower import envelope as wire
from fewbits.engines.flower.client_end import UP, ClientEnd
from fewbits.engines.flower.envelope import Envelope
from fewbits.errors import LocalError
from fewbits.links import ends
from fewbits.rng import Key
from fewbits.wire import Frame
from flower_task import DirectGrid, KilledError, app, grid, node
from test_flower import CLIENTS, frames, initial, play, record_bytes

ROUNDS = 6
METHOD = methods.lbgm_topk(threshold=0.9, fraction=0.2, feedback="inside")


def speaking(method=METHOD, key=KEY):
    return app(task(), [mod(method, key)])


def federated(**more) -> Federated:
    return Federated(METHOD, CLIENTS, key=KEY, evaluate=0.0, **more)


def answer(reply: Message) -> Envelope | None:
    """What a train reply says; None for others."""
    data = wire.value(reply.content) if reply.has_content() else None
    found = wire.opened(data) if data else None
    return found if found is not None and found.kind == "train" else None


def reworded(reply: Message, **changes) -> Message:
    """The reply with parts or fields of its envelope changed."""
    found = wire.opened(wire.value(reply.content))
    fields = {**found.fields, **changes.get("fields", {})}
    changed = Envelope(
        changes.get("kind", found.kind), changes.get("round", found.round), fields, changes.get("parts", found.parts)
    )
    reply.content = changed.seal()
    return reply


def digests(strategy, server_grid: DirectGrid, tmp_path) -> bool:
    """Whether every client's end has the history and number that the server's has."""
    for client in range(CLIENTS):
        receiver = strategy.server.receiver(client)
        with closing(ClientEnd(tmp_path / "1" / str(client), client, METHOD, KEY)) as end:
            header = Frame.parse(ends.restore(end.store, client, UP)).header
        if (header.sequence, header.history) != (receiver.expects, receiver.history):
            return False
    return True


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(model, frames) of the run that the others are held against."""
    server_grid = grid(speaking(), tmp_path_factory.mktemp("undisturbed"))
    result = play(federated(), server_grid, ROUNDS)
    return record_bytes(result.arrays), frames(server_grid)


# State that is lost


def test_nodes_that_restart_between_rounds_go_on_in_step(tmp_path, undisturbed):
    """New processes, new node numbers, the same folders."""
    server_grid, strategy = grid(speaking(), tmp_path), federated()
    configure = strategy.configure_train

    def restarted(round, *rest):
        server_grid.nodes = {
            1000 * round + c: node(speaking(), c, tmp_path, 1000 * round + c) for c in reversed(range(CLIENTS))
        }
        return configure(round, *rest)

    strategy.configure_train = restarted
    result = play(strategy, server_grid, ROUNDS)
    assert record_bytes(result.arrays) == undisturbed[0]
    assert strategy.channel.notes == []


def test_a_client_whose_state_was_deleted_costs_one_round_and_one_key_frame(tmp_path):
    server_grid, strategy = grid(speaking(), tmp_path), federated()
    configure = strategy.configure_train

    def deleting(round, *rest):
        if round == 3:
            shutil.rmtree(tmp_path / "1" / "2")
        return configure(round, *rest)

    strategy.configure_train = deleting
    play(strategy, server_grid, ROUNDS)
    (note,) = strategy.channel.notes
    assert "round 3: nothing from client 2: the state is gone" in note
    seen = frames(server_grid)
    assert (3, 2, "up") not in seen
    keys = [place for place, data in seen.items() if place[2] == "up" and Frame.parse(data).header.key]
    assert keys == [(4, 2, "up")]
    assert digests(strategy, server_grid, tmp_path)


def test_a_server_that_is_killed_anywhere_goes_on_to_the_same_bytes(tmp_path, undisturbed):
    """Killed as it is about to send round 3, when all replies of round 4 have come, and between step and checkpoint."""

    server_grid = grid(speaking(), tmp_path)
    server_grid.run.run_id = 1

    def buried(strategy):  # its process would be gone, and what was not committed with it
        for file in strategy.server.store._files.values():
            file.close()

    for attempt, victim in enumerate(["configure_train", "aggregate_train", "close_round", None]):
        strategy = federated(state=tmp_path / "server")

        def dying(name, strategy=strategy):
            owner = strategy.run_store if name == "close_round" else strategy
            original, turns = getattr(owner, name), iter(range(9))

            def killed(*args):
                if next(turns) == (2, 1, 0)[attempt]:
                    raise KilledError
                return original(*args)

            setattr(owner, name, killed)

        if victim == "close_round":
            build = strategy._build

            def built(*args, build=build, strategy=strategy):
                strategy.run_store = build(*args)
                dying("close_round", strategy)
                return strategy.run_store

            strategy._build = built
        elif victim is not None:
            dying(victim)
        if victim is None:
            result = play(strategy, server_grid, ROUNDS)
        else:
            with pytest.raises(KilledError):
                play(strategy, server_grid, ROUNDS)
            buried(strategy)
        server_grid.run.run_id += 1  # Flower gives the next attempt another number
    assert strategy.server.round == ROUNDS
    assert record_bytes(result.arrays) == undisturbed[0]
    assert frames(server_grid) == undisturbed[1]
    assert sorted(result.train_metrics_clientapp) == list(range(1, ROUNDS + 1))
    assert sorted({(e["round"]) for e in strategy.run_store.rounds}) == list(range(1, ROUNDS + 1))


@pytest.mark.parametrize("down", ["dense", "delta8"])
def test_clients_ahead_of_a_server_that_lost_its_newest_checkpoint_cost_one_round_and_go_on(tmp_path, down):
    """Killed in round 5, when all clients hold version 5, and resumed from round 3, of version 4."""
    method = methods.lbgm_topk(threshold=0.9, fraction=0.2, feedback="inside", down=down)
    server_grid = grid(speaking(method), tmp_path)
    server_grid.run.run_id = 1
    strategy = Federated(method, CLIENTS, key=KEY, evaluate=0.0, state=tmp_path / "server")
    original, turns = strategy.aggregate_train, iter(range(9))

    def killed(*args):
        if next(turns) == 4:
            raise KilledError
        return original(*args)

    strategy.aggregate_train = killed
    with pytest.raises(KilledError):
        play(strategy, server_grid, ROUNDS)
    for file in strategy.server.store._files.values():
        file.close()
    (tmp_path / "server" / "checkpoints" / "round-00000004.json").unlink()
    server_grid.run.run_id += 1
    strategy = Federated(method, CLIENTS, key=KEY, evaluate=0.0, state=tmp_path / "server")
    play(strategy, server_grid, ROUNDS)
    assert strategy.server.round == ROUNDS
    *lost, stays = strategy.channel.notes
    assert len(lost) == CLIENTS and "round 4: 0 usable replies" in stays
    for note in lost:
        assert note.startswith("round 4: nothing from client")
        assert "the bundle ends at version 4, we hold version 5" in note
    assert digests(strategy, server_grid, tmp_path)


def test_a_strategys_own_moments_survive_the_server(tmp_path):
    whole = play(Compressed(FedAdam(), METHOD, KEY), grid(speaking(), tmp_path / "whole"), 4)
    server_grid = grid(speaking(), tmp_path / "clients")
    for rounds in (2, 4):
        result = play(Compressed(FedAdam(), METHOD, KEY, state=tmp_path / "server"), server_grid, rounds)
    assert record_bytes(result.arrays) == record_bytes(whole.arrays)


def test_what_a_server_keeps_of_a_client_is_said_before_the_run(tmp_path, caplog):
    caplog.set_level("INFO", "flwr")
    strategy = federated(state=tmp_path / "server")
    play(strategy, grid(speaking(), tmp_path), 1)
    (said,) = [r.message for r in caplog.records if "the server keeps" in r.message]
    promised = int(re.search(r"keeps ([0-9,]+) bytes", said).group(1).replace(",", ""))
    kept = [len(strategy.server.receiver(c).dump()) for c in range(CLIENTS)]
    assert 0.9 * promised < sum(kept) / len(kept) < 1.1 * promised


def test_a_folder_of_another_run_is_refused_with_both_values(tmp_path):
    play(federated(state=tmp_path / "server"), grid(speaking(), tmp_path), 1)
    with pytest.raises(LocalError, match=r"its seed: .*7.*; got .*8.*Use a new folder"):
        other = Federated(METHOD, CLIENTS, key=Key(8), state=tmp_path / "server")
        play(other, grid(speaking(), tmp_path), 1)


# Replies that are lost, late, repeated or damaged


@pytest.mark.parametrize("fate", ["lost", "error"])
def test_a_reply_that_never_comes_is_taken_back_by_its_client(tmp_path, fate):
    def change(ask, reply):
        found = answer(reply)
        if found is None or found.round not in (2, 3) or ask.metadata.dst_node_id != 900:
            return [reply]
        return [] if fate == "lost" else [Message(Error(5, "node unavailable"), reply_to=ask)]

    server_grid, strategy = grid(speaking(), tmp_path), federated()
    server_grid.change = change
    play(strategy, server_grid, ROUNDS)
    sequences = [Frame.parse(frames(server_grid)[t, 0, "up"]).header.sequence for t in range(1, ROUNDS + 1)]
    assert sequences == [0, 1, 1, 1, 2, 3]
    assert not any(Frame.parse(data).header.key for place, data in frames(server_grid).items() if place[2] == "up")
    assert digests(strategy, server_grid, tmp_path)


def test_a_repeated_reply_counts_once(tmp_path, undisturbed):
    def change(ask, reply):
        return [reply, Message(reply.content, reply_to=ask)] if answer(reply) else [reply]

    server_grid, strategy = grid(speaking(), tmp_path), federated(quarantine=Quarantine(strikes=10**6))
    server_grid.change = change
    result = play(strategy, server_grid, ROUNDS)
    assert record_bytes(result.arrays) == undisturbed[0]
    assert strategy.quarantine.offences == dict.fromkeys(range(CLIENTS), ROUNDS)
    assert all("is left out: a second reply" in note for note in strategy.channel.notes)


def test_a_replayed_reply_is_refused_whatever_round_it_claims(tmp_path):
    old = {}

    def change(ask, reply):
        found = answer(reply)
        if found is None or ask.metadata.dst_node_id != 900:
            return [reply]
        old.setdefault(found.round, reply.content)
        if found.round == 3:
            return [_content(reply, old[1])]
        return [reworded(_content(reply, old[2]), round=4)] if found.round == 4 else [reply]

    server_grid, strategy = grid(speaking(), tmp_path), federated()
    server_grid.change = change
    play(strategy, server_grid, ROUNDS)
    assert "expected a reply to train of round 3; got train of round 1" in strategy.channel.notes[0]
    assert "frame 2 comes next on this link; got frame 1" in strategy.channel.notes[1]
    assert len(strategy.channel.notes) == 2
    assert digests(strategy, server_grid, tmp_path)


def test_an_end_whose_history_is_another_is_healed_by_a_key_frame(tmp_path):
    """The number fits, the digest does not: a store that was restored beside one that was not."""
    server_grid, strategy = grid(speaking(), tmp_path), federated()
    configure = strategy.configure_train

    def confusing(round, *rest):
        if round == 3:
            with closing(ClientEnd(tmp_path / "1" / "2", 2, METHOD, KEY)) as end:
                dumped = ends.restore(end.store, 2, UP)
                changed = restamp(dumped, history=Frame.parse(dumped).header.history ^ 1)
                ends.save(end.store, 2, UP, 2, [changed[:16], changed[16:]], dumped)
        return configure(round, *rest)

    strategy.configure_train = confusing
    play(strategy, server_grid, ROUNDS)
    assert len(strategy.channel.notes) == 1 and "the ends differ" in strategy.channel.notes[0]
    keys = [place for place, data in frames(server_grid).items() if place[2] == "up" and Frame.parse(data).header.key]
    assert keys == [(4, 2, "up")]
    assert digests(strategy, server_grid, tmp_path)


LIES = {
    "damaged frame": lambda reply: reworded(reply, parts=(bytes([*answer(reply).parts[0][:-1], 0x55]),)),
    "a weight of infinity": lambda reply: weighing(reply, float("inf")),
}


def weighing(reply: Message, weight: float) -> Message:
    return reworded(reply, fields={"records": [["metrics", "m", {"num-examples": weight, "loss": 1.0}]]})


def _content(reply: Message, content: RecordDict) -> Message:
    reply.content = content
    return reply


LIAR, FEW = 1, 3  # the client that lies, of so many


def around_fedavg(**more) -> Compressed:
    return Compressed(FedAvg(fraction_evaluate=0.0), METHOD, KEY, **more)


def of_few(**more) -> Federated:
    return Federated(METHOD, FEW, key=KEY, evaluate=0.0, **more)


def lied_to(folder, wrap, lie):
    """(model, grid, strategy) of a run in which the liar's train replies are changed."""
    server_grid, strategy = grid(speaking(), folder, FEW), wrap(quarantine=Quarantine(2, 2))
    liar = next(n for n, x in server_grid.nodes.items() if x.context.node_config["partition-id"] == LIAR)
    server_grid.change = lambda ask, reply: (
        lie(reply) if answer(reply) and ask.metadata.dst_node_id == liar else [reply]
    )
    return record_bytes(play(strategy, server_grid, 5).arrays), server_grid, strategy


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """The models of runs in which nothing comes from the liar."""
    folder = tmp_path_factory.mktemp("honest")
    return {wrap: lied_to(folder / wrap.__name__, wrap, lambda reply: [])[0] for wrap in (around_fedavg, of_few)}


@pytest.mark.parametrize("wrap", [of_few, around_fedavg])
@pytest.mark.parametrize("lie", LIES)
def test_one_client_that_always_lies_is_counted_named_and_left_alone(tmp_path, lie, wrap, honest):
    """And the others' model is what it would be without it."""
    model, server_grid, strategy = lied_to(tmp_path, wrap, lambda reply: [LIES[lie](reply)])
    assert [t for t, c, way in frames(server_grid) if c == LIAR and way == "down"] == [1, 2, 5]  # rests in 3 and 4
    assert strategy.quarantine.offences == {LIAR: 3}
    assert all(f"client {LIAR} is left out" in note for note in strategy.channel.notes)
    assert "not asked again until after round 4" in strategy.channel.notes[1]
    assert model == honest[wrap]


def test_plain_replies_that_are_not_the_model_or_not_finite_are_left_out(tmp_path):
    odd = {
        "nan": lambda arrays: {**arrays, "0.bias": Array(np.full(12, np.nan, np.float32))},
        "shape": lambda arrays: {**arrays, "0.bias": Array(np.zeros(13, np.float32))},
        "missing": lambda arrays: {n: x for n, x in arrays.items() if n != "0.bias"},
        "not an array": lambda arrays: {**arrays, "0.bias": Array("float32", (12,), "numpy.ndarray", b"\x93NUMPY\x01")},
        "a promise": lambda arrays: {**arrays, "0.bias": _promise(10**12)},
        "pickled": lambda arrays: {**arrays, "0.bias": Array("object", (12,), "numpy.ndarray", b"\x93NUMPY\x01\x00")},
    }
    for name, change in odd.items():
        client_app, plain = speaking(), app(task(), [])
        nodes = {c + 1: node(plain if c == 5 else client_app, c, tmp_path / name, c + 1) for c in range(CLIENTS)}

        def changed(ask, reply, change=change):
            if reply.has_content() and "arrays" in reply.content:
                metrics = reply.content["metrics"]
                reply.content = RecordDict(
                    {"arrays": ArrayRecord(change(dict(reply.content["arrays"]))), "metrics": metrics}
                )
            return [reply]

        strategy = Compressed(FedAvg(fraction_evaluate=0.0), METHOD, KEY)
        play(strategy, DirectGrid(nodes, changed), 2)
        first, *left_out, last = strategy.channel.notes
        assert "node 6 does not speak fewbits" in first and "1 node sent plain arrays, 2 times in all" in last, name
        assert len(left_out) == 2 and all("plain node 6 is left out: " in note for note in left_out), name


def _promise(size: int) -> Array:
    """An array whose header says that it is larger than any memory."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (size,)})
    return Array("float32", (12,), "numpy.ndarray", file.getvalue())


def test_too_few_replies_leave_the_model_and_the_links_as_they_are(tmp_path):
    def change(ask, reply):
        found = answer(reply)
        return [] if found and found.round == 2 and reply.metadata.src_node_id != 900 else [reply]

    server_grid, strategy = grid(speaking(), tmp_path), federated(quorum=2)
    server_grid.change = change
    play(strategy, server_grid, 4)
    assert strategy.channel.notes == ["round 2: 1 usable replies, quorum 2; the model stays"]
    assert [Frame.parse(frames(server_grid)[t, 0, "up"]).header.sequence for t in (1, 2, 3)] == [0, 1, 1]
    assert digests(strategy, server_grid, tmp_path)


def test_a_client_whose_training_blows_up_says_which_tensor_and_takes_part_again(tmp_path):
    client_app = ClientApp(mods=[mod(METHOD, KEY)])

    @client_app.train()
    def train(message, context):
        arrays, round = dict(message.content["arrays"]), message.content["config"]["server-round"]
        if round == 2 and context.node_config["partition-id"] == 1:
            arrays["2.bias"] = Array(np.full(10, np.inf, np.float32))
        content = RecordDict({"arrays": ArrayRecord(arrays), "m": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    strategy = federated()
    play(strategy, grid(client_app, tmp_path), 4)
    assert len(strategy.channel.notes) == 1
    assert (
        "round 2: nothing from client 1: " in strategy.channel.notes[0]
        and "2.bias has 0 NaN and 10 infinite" in strategy.channel.notes[0]
    )
    assert strategy.quarantine.offences == {}


# Who is who


def test_a_client_that_joins_late_trains_from_then_on(tmp_path):
    server_grid = grid(speaking(), tmp_path)
    late = server_grid.nodes.pop(900)
    strategy = Compressed(FedAvg(fraction_evaluate=0.0), METHOD, KEY)
    configure = strategy.configure_train

    def joining(round, *rest):
        if round == 3:
            server_grid.nodes[900] = late
        return configure(round, *rest)

    strategy.configure_train = joining
    play(strategy, server_grid, 5)
    assert sorted(t for t, c, way in frames(server_grid) if c == 0 and way == "up") == [3, 4, 5]
    assert strategy.channel.notes == []


def test_two_nodes_with_one_partition_id_are_told_apart_from_one_that_came_back(tmp_path):
    server_grid, strategy = grid(speaking(), tmp_path), Compressed(FedAvg(fraction_evaluate=0.0), METHOD, KEY)
    server_grid.nodes[5000] = node(speaking(), 2, tmp_path / "elsewhere", 5000)
    play(strategy, server_grid, 1)
    twin = 900 - 7 * 2
    assert strategy.channel.notes == [
        f"node 5000 is left out: node {twin} has partition id 2, too; every node needs one of its own"
    ]
    server_grid.nodes[6000] = server_grid.nodes.pop(twin)  # back under another number
    strategy.channel.notes.clear()
    play(strategy, DirectGrid({n: x for n, x in server_grid.nodes.items() if n != 5000}), 2)
    assert strategy.channel.notes == []


@pytest.mark.parametrize(
    ("spoken", "key", "sentence"),
    [
        (methods.topk(fraction=0.1), KEY, r"their uplink: the server has .*look_back.*, this client .*fraction=0\.1"),
        (
            methods.lbgm_topk(threshold=0.9, fraction=0.2, feedback="inside", down="dense"),
            KEY,
            r"their downlink: the server has .*delta.*, this client .*raw",
        ),
        (METHOD, Key(8), r"their seed: the server has .*7.*, this client .*8"),
    ],
)
def test_a_client_of_another_method_is_left_out_with_both_values(tmp_path, spoken, key, sentence):
    server_grid, strategy = grid(speaking(), tmp_path), Compressed(FedAvg(fraction_evaluate=0.0), METHOD, KEY)
    server_grid.nodes[900] = node(speaking(spoken, key), 0, tmp_path, 900)
    play(strategy, server_grid, 2)
    assert re.search(r"node 900 is left out: the ends differ in " + sentence, strategy.channel.notes[0])
    assert {c for _, c, _ in frames(server_grid)} == set(range(1, CLIENTS))


def test_a_node_without_a_partition_id_is_told_what_to_write(tmp_path):
    server_grid, strategy = grid(speaking(), tmp_path), Compressed(FedAvg(fraction_evaluate=0.0), METHOD, KEY)
    server_grid.nodes[900].context.node_config.pop("partition-id")
    strategy.start(server_grid, initial(), num_rounds=1, timeout=1)
    assert (
        "node 900 is left out: a node needs a number of its own, as in --node-config 'partition-id=0"
        in strategy.channel.notes[0]
    )


def test_a_client_with_another_model_says_what_differs(tmp_path):
    other = app(task(), [mod(METHOD, KEY)], lambda: mlp(13))
    server_grid, strategy = grid(speaking(), tmp_path), Compressed(FedAvg(fraction_evaluate=0.0), METHOD, KEY)
    client_app = ClientApp(mods=[mod(METHOD, KEY)])

    @client_app.train()
    def train(message, context):
        content = RecordDict({"arrays": ArrayRecord(mlp(13).state_dict()), "m": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    server_grid.nodes[900] = node(client_app, 0, tmp_path, 900)
    server_grid.nodes[893] = node(other, 1, tmp_path, 893)  # cannot even load the arrays: Flower's own error
    play(strategy, server_grid, 1)
    assert (
        "nothing from client 0: reply: 0.weight has shape (13, 64) of float32; the server's has shape (12, 64)"
        in strategy.channel.notes[0]
    )
    assert "nothing from client 1: " in strategy.channel.notes[1] and "size mismatch" in strategy.channel.notes[1]


@pytest.mark.parametrize("run", ["../../etc", "", "a/b", "x" * 65, "a b"])
def test_a_run_cannot_be_named_like_a_path(tmp_path, run):
    client_app, context = (
        speaking(),
        Context(1, 1, {"partition-id": 0, "fewbits-state": str(tmp_path)}, RecordDict(), {}),
    )
    ask = Message(Envelope("hello", 0, {"run": run}).seal(), 1, "train")
    ask.metadata.__dict__["_message_id"] = "1"
    said = wire.opened(wire.value(client_app(ask, context).content))
    assert said.kind == "trouble" and "a run's name has letters" in said.text("text")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("examples", [float("nan"), -200])
def test_an_evaluation_that_lies_about_its_weight_is_left_out(tmp_path, examples):
    """Two that cancel out would divide by zero in a stock strategy."""

    def change(ask, reply):
        data = wire.value(reply.content)
        if wire.opened(data).kind != "evaluate" or ask.metadata.dst_node_id != 900:
            return [reply]
        return [reworded(reply, fields={"records": [["metrics", "m", {"num-examples": examples, "accuracy": 1.0}]]})]

    server_grid, strategy = grid(speaking(), tmp_path, 2), Compressed(FedAvg(), METHOD, KEY)
    server_grid.change = change
    result = play(strategy, server_grid, 1)
    assert [note.partition(":")[0] for note in strategy.channel.notes] == ["round 1"]
    assert "client 0 is left out" in strategy.channel.notes[0]
    assert result.evaluate_metrics_clientapp[1]["accuracy"] < 1


def test_what_a_client_has_to_say_is_cut_short(tmp_path):
    client_app = ClientApp(mods=[mod(METHOD, KEY)])

    @client_app.train()
    def train(message, context):
        raise ValueError("so " * 10_000)

    strategy = federated()
    play(strategy, grid(client_app, tmp_path), 1)
    assert len(strategy.channel.notes) == CLIENTS + 1
    assert all(len(note) < 1000 for note in strategy.channel.notes)
