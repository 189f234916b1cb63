"""Twenty rounds in which everything goes wrong at once."""

import shutil
from collections import Counter
from contextlib import closing
from statistics import mean, stdev

import pytest
from flwr.app import Message

from digits_task import KEY, mlp, task
from fewbits import methods
from fewbits.engines.flower import Federated, mod
from fewbits.engines.flower.client_end import UP, ClientEnd
from fewbits.engines.simulation import Federation, Schedule
from fewbits.learn.local import evaluate
from fewbits.links import ends
from fewbits.rng import Key
from fewbits.wire import Frame
from flower_task import KilledError, app, grid, node
from test_flower import initial
from test_flower_faults import answer, reworded

CLIENTS, ROUNDS, LIAR, DELETED, KILLED = 10, 20, 4, 2, 6
METHOD = methods.lbgm_topk(threshold=0.6, fraction=0.2, feedback="inside")
FATES = ("lost", "late", "repeated", "corrupted")


def storm():
    """A change of replies by fate: 5% each, by (round, client); what was sent late comes with the next round."""
    reported, late = Counter(), []

    def fate(round: int, client: int) -> str:
        draw = int(Key(99).fold(round, client).below(100, 1)[0])
        return FATES[draw // 5] if draw < 20 else "fine"

    def change(ask: Message, reply: Message) -> list[Message]:
        found = answer(reply)
        if found is None:
            return [reply]
        client = (900 - ask.metadata.dst_node_id % 1000) // 7
        came = [m for m in late if answer(m).round < found.round]
        late[:] = [m for m in late if m not in came]
        if client == LIAR:
            reported["lie"] += 1
            return [*came, reworded(reply, parts=(found.parts[0][:-3] + b"lie",))]
        said = fate(found.round, client)
        reported[said] += 1
        if said == "lost":
            return came
        if said == "late":
            late.append(reply)
            return came
        if said == "repeated":
            return [*came, reply, Message(reply.content, reply_to=ask)]
        if said == "corrupted":
            frame = bytearray(found.parts[0])
            frame[len(frame) // 2] ^= 0x10
            return [*came, reworded(reply, parts=(bytes(frame),))]
        return [*came, reply]

    return change, reported


@pytest.mark.slow
def test_a_run_ends_and_learns_whatever_happens_to_it(tmp_path):
    """SIGKILL of a node within its turn, a deleted state, SIGKILL of the server, 5% each of lost, late, repeated and
    corrupted replies, and a client that always lies. The accuracy is within the spread of undisturbed runs.
    """
    clean = []
    for seed in range(5):
        run = Federation(task(CLIENTS, size=148), METHOD, Schedule(ROUNDS, processes=1), Key(seed))
        clean.append(run.run().accuracy)
    client_app = app(task(CLIENTS, size=148), [mod(METHOD, KEY)])
    server_grid, deaths = grid(client_app, tmp_path / "nodes", CLIENTS), []
    server_grid.change, reported = storm()
    result = None
    while result is None:
        strategy = Federated(METHOD, CLIENTS, key=KEY, state=tmp_path / "server", evaluate=0.0)
        strategy.configure_train = disturbed(strategy, server_grid, deaths, tmp_path / "nodes", client_app)
        strategy.aggregate_train = dying(strategy, deaths)
        try:
            result = strategy.start(server_grid, initial(), num_rounds=ROUNDS, timeout=5)
        except KilledError:
            for file in strategy.server.store._files.values():
                file.close()
    assert deaths == ["node", "state", "server"]
    assert all(reported[name] >= 4 for name in (*FATES, "lie")), reported
    accuracy = accuracy_of(result.arrays)
    assert abs(accuracy - mean(clean)) < 3 * stdev(clean) + 0.02, (accuracy, clean)
    assert [line["round"] for line in strategy.run_store.rounds] == list(range(1, ROUNDS + 1))
    for client in set(range(CLIENTS)) - {LIAR}:
        settle(strategy, client, tmp_path / "nodes")
    print(f"accuracy {accuracy:.3f}; undisturbed {mean(clean):.3f} +- {stdev(clean):.3f}; replies: {dict(reported)}")


def disturbed(strategy, server_grid, deaths, folder, client_app):
    """Before round 5 a node dies within its turn; before round 9 a client's state is deleted."""
    configure = strategy.configure_train

    def configured(round, *rest):
        number = next(n for n, x in server_grid.nodes.items() if x.context.node_config["partition-id"] == KILLED)
        if round == 5 and "node" not in deaths:
            deaths.append("node")
            server_grid.nodes[number].app = dead
        elif server_grid.nodes[number].app is dead:
            del server_grid.nodes[number]
            server_grid.nodes[number + 1000] = node(client_app, KILLED, folder, number + 1000)
        if round == 9 and "state" not in deaths:
            deaths.append("state")
            shutil.rmtree(next(folder.glob(f"*/{DELETED}")))
        return configure(round, *rest)

    return configured


def dead(message, context):
    raise KilledNodeError


class KilledNodeError(Exception):
    """The process is gone; what Flower says instead of a reply."""


def dying(strategy, deaths):
    """The server dies with all replies of round 13 in its hands."""
    aggregate = strategy.aggregate_train

    def aggregated(round, replies):
        if round == 13 and "server" not in deaths:
            deaths.append("server")
            raise KilledError
        return aggregate(round, replies)

    return aggregated


def accuracy_of(arrays) -> float:
    model, digits = mlp(), task(2)
    model.load_state_dict(arrays.to_torch_state_dict())
    return evaluate(model, digits.test_x, digits.test_y)[0]


def settle(strategy, client: int, folder) -> None:
    """The client's newest end, or the one before when its last reply did not count, is the server's."""
    receiver = strategy.server.receiver(client)
    with closing(ClientEnd(next(folder.glob(f"*/{client}")), client, METHOD, KEY)) as end:
        found = []
        for _ in range(2):
            header = Frame.parse(ends.restore(end.store, client, UP)).header
            found.append((header.sequence, header.history))
            ends.rollback(end.store, end.store.newest(client, UP), [client], UP)
    assert (receiver.expects, receiver.history) in found, client
