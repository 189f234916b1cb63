"""Local objectives over the whole engine: a run is the paper's loop, and all that travels for it is counted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad
from torch.nn.functional import cross_entropy

from digits_task import KEY, LOCAL, evidence, federation, filled, kept, mlp, task
from fewbits.codecs import ErrorFeedback, Quantize, TopK, chain, each, flat
from fewbits.coders import Rans
from fewbits.engines.simulation.worker import Worker
from fewbits.errors import LocalError
from fewbits.learn import FlatModel
from fewbits.learn.objectives import FedDyn, FedProx, Scaffold
from fewbits.learn.optimizers import ServerSGD
from fewbits.links import Receiver
from fewbits.links.ledger import read
from fewbits.methods import build, dense, feddyn, fedprox, scaffold, topk
from fewbits.wire.frame import HEADER_BYTES

METHODS = {"fedprox": fedprox(mu=0.5), "scaffold": scaffold(lr=0.7), "feddyn": feddyn(alpha=0.3)}
NUMEL = 64 * 12 + 12 + 12 * 10 + 10


def normed() -> nn.Module:
    return filled(nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10)))


def sampled(folder):
    """The clients of each round."""
    found = {}
    for entry in read(folder / "ledger.jsonl"):
        if entry.direction == "up":
            found.setdefault(entry.round, []).append(entry.client)
    return [found[number] for number in sorted(found)]


def vectors(folder):
    """What each client keeps, as a vector."""
    return {c: torch.from_numpy(np.frombuffer(row[HEADER_BYTES:], "<f4").copy()) for c, row in kept(folder).items()}


def by_hand(name, rounds, clients=6):
    """(w, the server's vector, what clients keep) after these rounds, by the papers' boxes in plain torch."""
    own, net = task(clients), mlp()
    shapes = {n: p.shape for n, p in net.named_parameters()}
    sizes, m = [len(part) for part in own.parts], sum(len(part) for part in own.parts)

    def loss(w, x, y):
        cut = torch.split(w, [shape.numel() for shape in shapes.values()])
        named = {n: piece.reshape(shape) for (n, shape), piece in zip(shapes.items(), cut, strict=True)}
        return cross_entropy(functional_call(net, named, (x,)), y)

    w = torch.cat([p.detach().reshape(-1) for p in net.parameters()])
    server, mine, lr = torch.zeros_like(w), {c: torch.zeros_like(w) for c in range(clients)}, LOCAL.lr
    for number, chosen in enumerate(rounds, 1):
        ends, changes = {}, {}
        for i in chosen:
            y, steps = w.clone(), 0
            for batch in LOCAL.batches(own.parts[i], KEY.fold("round", number, "client", i)):
                g = grad(loss)(y, own.x[batch], own.y[batch])
                if name == "fedprox":
                    g = g + 0.5 * (y - w)
                elif name == "scaffold":
                    g = g - mine[i] + server
                else:
                    g = g - mine[i] + 0.3 * (y - w)
                y, steps = y - lr * g, steps + 1
            if name == "scaffold":
                new = mine[i] - server + (w - y) / (steps * lr)
                mine[i], changes[i] = new, new - mine[i]
            elif name == "feddyn":
                mine[i] = mine[i] - 0.3 * (y - w)
            ends[i] = y
        present = sum(sizes[i] for i in chosen)
        mean = sum(sizes[i] * ends[i] for i in chosen) / present
        if name == "fedprox":
            w = mean
        elif name == "scaffold":
            server = server + sum(sizes[i] * changes[i] for i in chosen) / m
            w = w + 0.7 * (mean - w)
        else:
            server = server - 0.3 * sum(sizes[i] * (ends[i] - w) for i in chosen) / m
            w = mean - server / 0.3
    return w, server, mine


def assert_as_by_hand(run, name, rounds):
    w, server, mine = by_hand(name, rounds)
    torch.testing.assert_close(run.server.flat.params, w, rtol=0, atol=1e-5)
    for client, own in vectors(run.folder).items():
        torch.testing.assert_close(own, mine[client], rtol=0, atol=1e-5)
    vectors_and_moments = (*run.server.public.server_vectors, *run.server.public.moments)
    assert len(vectors_and_moments) == (name != "fedprox")
    if vectors_and_moments:
        torch.testing.assert_close(vectors_and_moments[0], server, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("per_round", [None, 3])
def test_a_run_is_the_papers_loop(name, per_round, tmp_path):
    run = federation(METHODS[name], tmp_path, rounds=3, per_round=per_round)
    run.run()
    rounds = sampled(tmp_path)
    assert vectors(tmp_path).keys() == ({c for r in rounds for c in r} if name != "fedprox" else set())
    assert_as_by_hand(run, name, rounds)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_after_a_rejected_frame_client_and_server_keep_what_they_had(name, processes, tmp_path, monkeypatch):
    encode = Worker.encode

    def damaged(self, round, trained):
        reply, pieces = encode(self, round, trained)
        frame = b"".join(pieces)
        return reply, [frame[:-1] + bytes([frame[-1] ^ 1]) if (round, trained.client) == (2, 1) else frame]

    monkeypatch.setattr(Worker, "encode", damaged)
    run = federation(METHODS[name], tmp_path, rounds=3, processes=processes)
    assert [r.rejected for r in run.run().reports] == [0, 1, 0]
    everybody = list(range(6))
    assert_as_by_hand(run, name, [everybody, [0, 2, 3, 4, 5], everybody])


# --- what travels


@pytest.mark.parametrize(("name", "times"), [("dense", 1), ("fedprox", 1), ("feddyn", 1), ("scaffold", 2)])
def test_every_number_that_travels_is_counted_both_ways(name, times, tmp_path):
    federation(METHODS.get(name) or dense(), tmp_path).run()
    found = {(e.direction, e.payload_bytes) for e in read(tmp_path / "ledger.jsonl")}
    assert found == {("up", 4 * NUMEL * times), ("down", 4 * NUMEL * times)}


def test_scaffolds_control_variate_is_in_the_frames_by_name():
    run = federation(scaffold())
    assert [name for name, _ in run.server.exchange.update] == ["0.weight", "0.bias", "2.weight", "2.bias", "control:0"]
    assert [name for name, _ in federation(feddyn()).server.exchange.update] == [
        "0.weight",
        "0.bias",
        "2.weight",
        "2.bias",
    ]


LOSSY = [topk(), build("lbgm+topk"), build("predict"), build("fedpaq"), build("signsgd")]


@pytest.mark.parametrize("method", LOSSY, ids=lambda m: m.name)
@pytest.mark.parametrize("model", [mlp, normed], ids=["mlp", "normed"])
def test_a_lossy_uplink_and_downlink_leave_control_variates_as_they_are(method, model, tmp_path):
    """In the first round c and c_i are zero, so that the frame's control variate is c_i - c_i+ = -c_i+, bit for bit."""
    run = federation(replace(method, objective=Scaffold()), tmp_path, task=task(model=model), rounds=3, per_round=4)
    sent, states = {}, []

    def tap(round, client, direction, message):
        if (round, direction) == (1, "up"):
            receiver = Receiver(run.server.exchange.up, run.server.exchange.update)
            sent[client] = receiver.receive(message, KEY.fold("round", 1, "common"))["control:0"]

    run.tap = tap
    result = run.run(lambda report: states.append(vectors(tmp_path)))
    assert all(r.rejected == r.skipped == 0 for r in result.reports)
    assert len(sent) == 4 and all(torch.equal(states[0][client], -x) for client, x in sent.items())
    parts, mine = run.task.parts, states[-1]
    mean = sum(len(parts[c]) * c_i for c, c_i in mine.items()) / sum(map(len, parts))
    torch.testing.assert_close(run.server.public.server_vectors[0], mean, rtol=0, atol=1e-5)
    assert torch.equal(run.server.broadcast.value["control:0"], run.server.public.server_vectors[0]), (
        "nor does the downlink"
    )


def test_a_codec_that_could_not_spare_control_variates_is_refused():
    with pytest.raises(LocalError, match="use flat"):
        federation(replace(topk(), up=each(TopK(0.1)), objective=Scaffold()))


def test_a_lossy_link_sends_the_control_variate_in_full_and_the_rest_in_little(tmp_path):
    federation(replace(topk(), objective=Scaffold()), tmp_path).run()
    assert all(4 * NUMEL < e.payload_bytes < 5 * NUMEL for e in read(tmp_path / "ledger.jsonl") if e.direction == "up")


# --- restarts and processes


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("model", [mlp, normed], ids=["mlp", "normed"])
def test_a_run_stopped_in_the_middle_ends_with_the_same_bytes_whatever_the_processes(name, model, tmp_path):
    found = []
    for folder, parts in (("whole", [(1, 6)]), ("other", [(2, 6)]), ("parts", [(1, 2), (3, 3), (2, 6)])):
        for processes, rounds in parts:
            run = federation(
                METHODS[name], tmp_path / folder, rounds, task=task(model=model), per_round=4, processes=processes
            )
            run.run()
        found.append(
            (evidence(run), [x.tolist() for x in (*run.server.public.server_vectors, *run.server.public.moments)])
        )
    assert found[0] == found[1] == found[2]
    assert len(found[0][0][3]) == (0 if name == "fedprox" else 6)


def test_scaffold_over_a_lossy_link_survives_a_restart(tmp_path):
    method = replace(topk(down="delta4"), up=flat(ErrorFeedback(chain(TopK(0.1), Quantize(4), Rans()))))
    found = []
    for folder, parts in (("whole", [6]), ("parts", [2, 3, 6])):
        for rounds in parts:
            run = federation(replace(method, objective=Scaffold()), tmp_path / folder, rounds, per_round=3)
            run.run()
        found.append(evidence(run))
    assert found[0] == found[1]


# --- with factors


@pytest.mark.parametrize("name", ["fedpara+scaffold", "pfedpara+feddyn", "lowrank+fedprox"])
def test_objectives_work_on_factors(name, tmp_path):
    def wide():
        return filled(nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10)))

    run = federation(build(name), tmp_path, task=task(model=wide), per_round=4, rounds=8)
    result = run.run()
    assert result.reports[-1].train_loss < result.reports[0].train_loss
    shared, own = len(run.server.flat.shared_params), len(run.server.flat.private[0])
    objective = run.method.objective
    assert {len(x) for x in vectors(tmp_path).values()} == ({own + shared * objective.client_vectors} - {0})
    assert {e.payload_bytes for e in read(tmp_path / "ledger.jsonl")} == {4 * shared * (1 + objective.server_vectors)}


@pytest.mark.parametrize("objective", [Scaffold(), FedDyn(0.3)], ids=repr)
def test_vectors_are_those_of_the_parameters_that_travel(objective, tmp_path):
    method = replace(build("fedper"), objective=objective, optimizer=None)
    run = federation(method, tmp_path, rounds=2)
    run.run()
    layout = FlatModel(run.task.model)
    assert len(layout.private[0]) == 130 and len(layout.shared_params) == NUMEL - 130
    assert {len(x) for x in vectors(tmp_path).values()} == {130 + NUMEL - 130}


# --- mistakes


@pytest.mark.parametrize("changes", [{"momentum": 0.5}, {"clip": 1.0}], ids=str)
def test_scaffold_refuses_what_is_not_plain_sgd_before_a_folder_is_made(changes, tmp_path):
    with pytest.raises(LocalError, match="Scaffold: option II reads the mean gradient off plain SGD's steps"):
        federation(scaffold(), tmp_path / "x", task=task(local=replace(LOCAL, **changes)))
    assert not (tmp_path / "x").exists()


def test_a_method_of_two_halves_that_do_not_fit_is_refused():
    with pytest.raises(LocalError, match=r"needs FedDynServer\(alpha=0.3\) at the server"):
        replace(feddyn(0.3), optimizer=ServerSGD())
    with pytest.raises(LocalError, match="half of an algorithm"):
        replace(dense(), optimizer=feddyn(0.3).server_optimizer)
    for objective in (Scaffold(), FedDyn(0.1)):
        with pytest.raises(LocalError, match="use normalise='sampled'"):
            replace(dense(), objective=objective, optimizer=None, normalise="all")
    assert replace(dense(), objective=FedProx(0.1), normalise="all").normalise == "all"


def test_a_folder_of_another_objective_is_refused(tmp_path):
    federation(scaffold(), tmp_path, rounds=1).run()
    for other in (dense(), feddyn(), fedprox(), scaffold(lr=0.5)):
        with pytest.raises(LocalError, match="holds another run; its method: "):
            federation(other, tmp_path, rounds=2)
