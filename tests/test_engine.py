"""Laws of the in-memory engine: what a run gives, whatever the processes, the clients' accidents and bad frames."""

import multiprocessing
import os
import random
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from digits_task import KEY, LOCAL, digits, evidence, federation, filled, holdout, metrics, mlp, model_bytes, task
from fewbits.engines.common import checkpoint
from fewbits.engines.simulation import Federation, Schedule, Task
from fewbits.engines.simulation.pool import Pool
from fewbits.engines.simulation.shared_memory import SharedRing
from fewbits.engines.simulation.worker import Worker
from fewbits.errors import FewbitsError, LocalError
from fewbits.federated.server import Server
from fewbits.learn import FedAdam, FlatModel, LocalSGD, ServerSGD
from fewbits.links import Subscriber
from fewbits.links.bundle import pack
from fewbits.links.ledger import read
from fewbits.methods import METHODS, build, dense, lbgm, topk
from fewbits.training import federate


@pytest.fixture(autouse=True)
def no_hang():
    """A test that waits for ever fails instead."""

    def give_up(*_):
        pytest.fail("the test hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(40)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", METHODS)
def test_a_run_does_not_depend_on_the_number_of_processes(name, tmp_path):
    found, momentum = [], 0.0 if name == "scaffold" else 0.5  # scaffold refuses it
    for processes in (1, 3):
        run = federation(
            build(name, {"dim": "64"} if name == "intrinsic" else {}),
            tmp_path / str(processes),
            per_round=4,
            processes=processes,
            task=task(local=replace(LOCAL, momentum=momentum), holdout=holdout(6)),
        )
        run.run()
        found.append(evidence(run))
    assert found[0] == found[1]
    assert len(found[0][2]) == 4 and all(m["rejected"] == m["skipped"] == 0 for m in found[0][2])


@pytest.mark.parametrize("name", ["dense", "lbgm+topk", "pfedpara"])
def test_a_run_does_not_depend_on_how_many_train_before_they_are_encoded(name, tmp_path, monkeypatch):
    found = []
    for burst, update_bytes in ((1, 2**30), (3, 2**30), (50, 2**30), (50, 1)):
        monkeypatch.setattr("fewbits.engines.simulation.worker.BURST", burst)
        monkeypatch.setattr("fewbits.engines.simulation.worker.BURST_BYTES", update_bytes)
        run = federation(build(name), tmp_path / f"{burst} {update_bytes}", per_round=5, processes=2, task=task(7))
        run.run()
        found.append(evidence(run))
    assert all(one == found[0] for one in found)


def test_frames_that_fit_no_slot_travel_with_their_message(tmp_path, monkeypatch):
    found = []
    for name in ("slot", "message"):
        run = federation(build("dense"), tmp_path / name, processes=2)
        run.run()
        found.append(evidence(run))
        monkeypatch.setattr(SharedRing, "fits", lambda self, size: False)
    assert found[0] == found[1]


@pytest.mark.parametrize("per_round", [None, 3])
def test_lbgm_that_never_recycles_is_fedavg_bit_for_bit(per_round):
    models = []
    for method in (dense(), lbgm(threshold=0.0), lbgm(threshold=0.0, granularity="tensor")):
        models.append(model_bytes(federation(method, rounds=5, per_round=per_round).run().model))
    assert models[0] == models[1] == models[2]


def by_hand(server_step, rounds=4, clients=6):
    """FedAvg with torch.optim.SGD at the clients; `server_step(theta, mean update)` -> theta."""
    own, model = task(clients), mlp()
    theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    for number in range(1, rounds + 1):
        total, weight = torch.zeros_like(theta), 0.0
        for client, rows in enumerate(own.parts):
            nn.utils.vector_to_parameters(theta.clone(), model.parameters())
            optimizer = torch.optim.SGD(model.parameters(), lr=LOCAL.lr)
            for batch in LOCAL.batches(rows, KEY.fold("round", number, "client", client)):
                optimizer.zero_grad()
                cross_entropy(model(own.x[batch]), own.y[batch]).backward()
                optimizer.step()
            total += (theta - nn.utils.parameters_to_vector(model.parameters()).detach()) * len(rows)
            weight += len(rows)
        theta = server_step(theta, total / weight)
    return theta


def by_engine(optimizer):
    run = federation(replace(dense(), optimizer=optimizer))
    return nn.utils.parameters_to_vector(run.run().model.parameters()).detach()


def test_dense_equals_a_plain_fedavg_loop():
    torch.testing.assert_close(by_engine(ServerSGD()), by_hand(lambda theta, g: theta - g), rtol=0, atol=1e-6)


def test_momentum_at_the_server_equals_torchs_sgd():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.7, momentum=0.9)

    def step(theta, g):
        parameter.data, parameter.grad = theta.clone(), g
        optimizer.step()
        return parameter.detach().clone()

    torch.testing.assert_close(by_engine(ServerSGD(lr=0.7, momentum=0.9)), by_hand(step), rtol=0, atol=1e-6)


def test_fedadam_equals_adam_without_bias_correction():
    m, v = 0.0, 1e-3**2  # Reddi et al. 2021: v starts at tau^2

    def step(theta, g):
        nonlocal m, v
        g = g.double().numpy()
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        return (theta.double() - torch.from_numpy(0.02 * m / (np.sqrt(v) + 1e-3))).float()

    torch.testing.assert_close(by_engine(FedAdam(lr=0.02)), by_hand(step), rtol=0, atol=2e-5)


def test_a_client_whose_update_is_not_finite_is_skipped_and_the_others_go_on(tmp_path):
    def spoilt():
        own = task()
        x = own.x.clone()
        x[own.parts[2][0]] = float("nan")
        return replace(own, x=x)

    found = []
    for processes in (1, 2):
        run = federation(topk(), tmp_path / str(processes), processes=processes, task=spoilt())
        result = run.run()
        found.append(evidence(run))
        assert [(r.skipped, r.clients) for r in result.reports] == [(1, 5)] * 4
        said, total = result.notes
        assert said.startswith("round 1: client 2 was skipped") and "0.weight has" in said
        assert total == "4 turns of clients were skipped in 4 rounds"
        assert torch.isfinite(result.model[0].weight).all()
    assert found[0] == found[1]
    assert not [e for e in read(tmp_path / "1" / "ledger.jsonl") if (e.client, e.direction) == (2, "up")]


@pytest.mark.parametrize("method", ["lbgm", "topk", "predict"])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_frame_damaged_on_its_way_is_counted_and_the_client_is_back_in_the_next_round(
    method, processes, tmp_path, monkeypatch
):
    encode = Worker.encode

    def damaged(self, round, trained):
        reply, pieces = encode(self, round, trained)
        frame = b"".join(pieces)
        return reply, [frame[:-1] + bytes([frame[-1] ^ 1]) if (round, trained.client) == (3, 1) else frame]

    monkeypatch.setattr(Worker, "encode", damaged)
    run = federation(build(method), tmp_path, rounds=5, processes=processes)
    result = run.run()
    assert [r.rejected for r in result.reports] == [0, 0, 1, 0, 0]
    assert [r.clients for r in result.reports] == [6, 6, 5, 6, 6]
    assert run.server.rejected == {1: 1}
    sent = [e for e in read(tmp_path / "ledger.jsonl") if (e.client, e.direction) == (1, "up")]
    assert [e.round for e in sent] == [1, 2, 3, 4, 5], "what travelled is counted, used or not"


def test_a_round_in_which_every_client_is_skipped_leaves_the_model_as_it_was():
    own = task()
    before = model_bytes(own.model)
    run = federation(dense(), task=replace(own, x=own.x * float("nan")), rounds=2)
    result = run.run()
    assert [r.clients for r in result.reports] == [0, 0] and model_bytes(result.model) == before


def test_absent_clients_pay_for_all_that_they_missed():
    """A real Follower per client, fed with just the counted bundles, ends at the public model, bit for bit."""
    run = federation(topk(fraction=0.2), rounds=30, per_round=2, task=task(10))
    followers, expected, entries, ways = {}, [0], {}, set()

    def tap(round, client, direction, message):
        if direction == "up":
            return
        broadcast = run.server.broadcast
        follower = followers.setdefault(client, Subscriber(broadcast.codec, run.server.exchange.update))
        known, now = follower.version, broadcast.version
        if now > 1:
            entries[now] = broadcast.frames(now - 1)[0]
        snapshot = broadcast.frames(None)
        missed = [entries[v] for v in range(known + 1, now + 1)] if known else snapshot
        assert len(message) <= min(len(pack(missed)), len(pack(snapshot)))
        ways.add("new" if not known else f"{len(missed)} entries" if message == pack(missed) else "another")
        expected[0] += len(message)
        follower.receive(message)
        for name, value in follower.value.items():
            assert torch.equal(value, broadcast.value[name])

    run.tap = tap
    result = run.run()
    assert result.reports[-1].down_frame_bytes == expected[0]
    assert {"new", "another", "2 entries"} <= ways


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_neither_reads_nor_changes_the_global_generators_nor_the_number_of_threads(processes):
    def dropout():
        return filled(nn.Sequential(nn.Linear(64, 12), nn.Dropout(0.3), nn.ReLU(), nn.Linear(12, 10)))

    found = []
    threads = torch.get_num_threads()
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        torch.set_num_threads(2)
        for seed in (0, 1):
            own = task(model=dropout)  # here: torch draws before it is overwritten
            torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)  # noqa: NPY002
            before = torch.get_rng_state(), np.random.get_state()[1].tobytes(), random.getstate()  # noqa: NPY002
            result = federation(topk(), task=own, processes=processes).run()
            assert torch.equal(torch.get_rng_state(), before[0])
            assert (np.random.get_state()[1].tobytes(), random.getstate()) == before[1:]  # noqa: NPY002
            assert torch.get_num_threads() == 2
            found.append(model_bytes(result.model))
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(kept[0]), np.random.set_state(kept[1]), random.setstate(kept[2])  # noqa: NPY002
    assert found[0] == found[1]


class Grumpy(nn.Module):
    """Does as `trouble` says when it sees an image that is all 9."""

    def __init__(self, trouble):
        super().__init__()
        self.inner, self.trouble = mlp(), trouble

    def forward(self, x):
        if bool((x == 9).all(1).any()):
            self.trouble()
        return self.inner(x)


def marked(trouble):
    own = task(model=lambda: Grumpy(trouble))
    x = own.x.clone()
    x[own.parts[4]] = 9
    return replace(own, x=x)


def complain():
    raise RuntimeError("no images today")


@pytest.mark.parametrize("processes", [1, 3])
def test_what_a_model_raises_costs_that_clients_turn_and_is_said_with_its_line(processes):
    result = federation(dense(), task=marked(complain), processes=processes, rounds=2).run()
    assert [(r.clients, r.skipped) for r in result.reports] == [(5, 1)] * 2
    line = complain.__code__.co_firstlineno + 1
    sentence = f"round 1: client 4 was skipped: RuntimeError: no images today (test_engine.py, line {line})"
    assert result.notes[0] == sentence and multiprocessing.active_children() == []


def test_a_fault_of_a_worker_process_arrives_with_its_traceback_and_no_process_is_left(monkeypatch):
    def fail(self, round, turn):
        raise RuntimeError("a fault of this library")

    monkeypatch.setattr(Worker, "encode", fail)
    threads = torch.get_num_threads()
    with pytest.raises(FewbitsError, match=r"(?s)Traceback.*in fail.*a fault of this library") as caught:
        federation(dense(), processes=3).run()
    assert not isinstance(caught.value, LocalError)
    assert multiprocessing.active_children() == [] and torch.get_num_threads() == threads


def test_a_worker_killed_at_work_ends_the_run_with_a_sentence():
    with pytest.raises(FewbitsError, match=r"a worker process ended unexpectedly \(exit code -9\)"):
        federation(dense(), task=marked(lambda: os.kill(os.getpid(), signal.SIGKILL)), processes=2).run()
    assert multiprocessing.active_children() == []


def test_a_worker_killed_between_rounds_ends_the_run_with_a_sentence():
    def watch(report):
        victim = multiprocessing.active_children()[0]
        victim.kill()
        victim.join()

    with pytest.raises(FewbitsError, match="a worker process ended unexpectedly"):
        federation(dense(), processes=2).run(watch)
    assert multiprocessing.active_children() == []


def test_a_worker_that_cannot_start_ends_the_run_with_a_sentence(monkeypatch):
    def refuse(self, *_):
        raise LocalError("no room for a worker")

    monkeypatch.setattr(Worker, "__init__", refuse)
    threads = torch.get_num_threads()
    for processes in (1, 2):
        with pytest.raises(LocalError, match="no room for a worker"):
            federation(dense(), processes=processes).run()
    assert multiprocessing.active_children() == [] and torch.get_num_threads() == threads


def normed(momentum=0.1):
    return filled(nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12, momentum=momentum), nn.ReLU(), nn.Linear(12, 10)))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_are_the_weighted_average_of_the_clients(momentum):
    """momentum=None averages over all batches seen, by a counter that does not travel: no client may see another's."""

    def fresh():
        return task(5, model=lambda: normed(momentum))

    found = [federation(topk(), rounds=1, processes=n, task=fresh()).run().model for n in (1, 2, 3)]
    assert model_bytes(found[0]) == model_bytes(found[1]) == model_bytes(found[2])
    own, total = fresh(), torch.zeros(24, dtype=torch.float64)
    for client, rows in enumerate(own.parts):
        alone = FlatModel(normed(momentum))
        LOCAL.train(alone, own.x, own.y, rows, KEY.fold("round", 1, "client", client))
        total += alone.buffers.double() * len(rows)
    expected = total / sum(len(rows) for rows in own.parts)
    norm = found[0][1]
    torch.testing.assert_close(torch.cat([norm.running_mean, norm.running_var]).double(), expected, rtol=0, atol=1e-6)


def test_batch_norm_does_not_depend_on_the_number_of_processes_over_many_rounds(tmp_path):
    found = []
    for processes in (1, 2):
        run = federation(
            build("lbgm+topk"), tmp_path / str(processes), processes=processes, task=task(model=normed), per_round=4
        )
        run.run()
        found.append(evidence(run))
    assert found[0] == found[1]


def test_federate_gives_the_same_bytes_for_the_same_seed_and_trains_the_model_in_place():
    x, y = digits()
    clients = [(x[i : i + 20], y[i : i + 20]) for i in range(0, 100, 20)]
    results = [federate(mlp(), clients, lbgm(), 3, test=(x[1500:1600], y[1500:1600]), seed=3) for _ in range(2)]
    assert model_bytes(results[0].model) == model_bytes(results[1].model) != model_bytes(mlp())
    assert results[0].accuracy == results[1].accuracy is not None
    assert results[0].ledger.frame_bytes == results[1].ledger.frame_bytes


def test_the_default_local_training_is_what_federate_says():
    x, y = digits()
    clients = [(x[:20], y[:20]), (x[20:45], y[20:45])]
    local = LocalSGD(lr=0.1, epochs=1, batch_size=10)
    found = [model_bytes(federate(mlp(), clients, dense(), 2, local=choice).model) for choice in (None, local)]
    assert found[0] == found[1]


def test_reports_count_what_the_ledger_counts(tmp_path):
    federation(build("lbgm+topk"), tmp_path, per_round=3, evaluate_every=3, rounds=4).run()
    entries, lines = list(read(tmp_path / "ledger.jsonl")), metrics(tmp_path)
    for line in lines:
        so_far = [e for e in entries if e.round <= line["round"]]
        for way in ("up", "down"):
            assert line[f"{way}_frame_bytes"] == sum(e.frame_bytes for e in so_far if e.direction == way)
            assert line[f"{way}_payload_bytes"] == sum(e.payload_bytes for e in so_far if e.direction == way)
    assert [line["accuracy"] is not None for line in lines] == [False, False, True, True]


def test_tensors_at_the_server_and_the_workers_are_the_same_public_model(monkeypatch):
    """Every worker's copy, at every round, is the server's, bit for bit."""
    seen = []
    receive = Worker.receive

    def watched(self, bundle):
        receive(self, bundle)
        seen.append((self.version, b"".join(x.numpy().tobytes() for x in self._public.value.values())))

    published = {}
    publish = Server.step

    def step(self):
        published[self.broadcast.version] = b"".join(x.numpy().tobytes() for x in self.broadcast.value.values())
        publish(self)

    monkeypatch.setattr(Worker, "receive", watched)
    monkeypatch.setattr(Server, "step", step)
    federation(build("predict"), per_round=2).run()
    assert len(published) == 4 and all(value == published[v] for v, value in seen if v in published)


def test_a_task_or_schedule_that_makes_no_sense_is_refused_with_a_sentence():
    x, y = digits()
    with pytest.raises(LocalError, match=r"client 1: .*; so it is with 2 of 3 clients"):
        Task(mlp(), x, y, [np.arange(3), np.arange(0), np.arange(0)])
    with pytest.raises(LocalError, match="there are no clients"):
        Task(mlp(), x, y, [])
    with pytest.raises(LocalError, match="row 1797"):
        Task(mlp(), x, y, [np.arange(1795, 1798)])
    with pytest.raises(LocalError, match="rows"):
        Task(mlp(), x, y[:5], [np.arange(3)])
    for wrong in (
        {"rounds": 0},
        {"rounds": 1, "processes": 0},
        {"rounds": 1, "per_round": 0},
        {"rounds": 1, "evaluate_every": 0},
    ):
        with pytest.raises(LocalError, match="must be a whole number, 1 or more"):
            Schedule(**wrong)


def test_parts_may_be_lists_of_whole_numbers():
    own = task()
    assert model_bytes(
        federation(lbgm(), task=replace(own, model=mlp(), parts=[p.tolist() for p in own.parts])).run().model
    ) == (model_bytes(federation(lbgm()).run().model))
    for wrong in ([[0, 1], [0.5]], [[0, 1], [True]], [[0, 1], [[2]]]):
        with pytest.raises(LocalError, match="part of client 1 must be a list of row numbers"):
            replace(own, parts=wrong)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "lbgm"}, "method must be a Method"),
        ({"key": 0}, r"key must be a Key, such as Key\(0\); got 0"),
        ({"schedule": Schedule(1, per_round=7)}, "per_round is 7, but there are 6 clients"),
    ],
)
def test_a_federation_of_wrong_arguments_is_refused_before_its_folder_is_made(changes, said, tmp_path):
    given = {"task": task(), "method": lbgm(), "schedule": Schedule(1), "key": KEY} | changes
    with pytest.raises(LocalError, match=said):
        Federation(**given, folder=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_folder_may_be_text(tmp_path):
    federation(lbgm(), str(tmp_path / "x"), rounds=1).run()
    assert len(metrics(tmp_path / "x")) == 1


@pytest.mark.parametrize("processes", [1, 2])
def test_states_and_logs_are_on_disk_before_a_checkpoint_names_them(processes, tmp_path, monkeypatch):
    synced, saved, fsync = set(), [], os.fsync

    def note(file):
        synced.add(os.fstat(file).st_ino)
        fsync(file)

    def save(folder, *rest):
        kept = [p for p in tmp_path.rglob("*") if p.suffix in (".jsonl", ".sqlite") or p.name.endswith("-wal")]
        assert len(kept) >= 2 + processes + 1 and {p.stat().st_ino for p in kept} <= synced
        synced.clear()
        saved.append(rest[-1].round)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(checkpoint, "save", save)
    federation(lbgm(), tmp_path, rounds=4, processes=processes, checkpoint_every=2).run()
    assert saved == [2, 4]


def test_a_worker_that_died_with_the_counters_lock_does_not_hold_up_the_end(tmp_path):
    with pytest.raises(RuntimeError, match="enough"), Pool(task(), lbgm(), KEY, tmp_path, 2) as pool:
        thief = multiprocessing.get_context("fork").Process(target=pool._next.get_lock().acquire)
        thief.start()
        thief.join()
        raise RuntimeError("enough")
    assert multiprocessing.active_children() == []


def test_a_run_without_a_folder_cannot_go_on_after_it_was_stopped():
    run = federation(lbgm())
    run.run(stop=lambda: True)
    assert run.server.round == 1
    with pytest.raises(LocalError, match="make a new one"):
        run.run()


def test_a_finished_run_plays_no_more_rounds():
    run = federation(lbgm(), rounds=2)
    first = model_bytes(run.run().model)
    assert model_bytes(run.run().model) == first and len(run.reports) == 2 and isinstance(run, Federation)


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("nonsense", "device must be cpu, cuda, cuda:1, mps or so; got 'nonsense'"),
        ("meta", "device must be cpu, cuda, cuda:1, mps or so; got 'meta'"),
    ],
)
def test_a_device_that_cannot_be_used_is_refused(device, said):
    with pytest.raises(LocalError, match=said):
        Schedule(1, device=device)


def test_a_task_moves_with_its_arrays_and_leaves_its_model():
    own = task()
    moved = own.on(torch.device("meta"))
    assert {moved.x.device.type, moved.y.device.type, moved.test_x.device.type, moved.test_y.device.type} == {"meta"}
    assert moved.model is own.model and own.x.device.type == "cpu"
