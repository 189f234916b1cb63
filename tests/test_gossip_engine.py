"""Laws of the engine without a server: same bytes with any number of processes, after a resume, and node by node."""

import json
import multiprocessing
import os
import signal
from contextlib import suppress
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from digits_task import KEY, filled, metrics, mlp, task
from fewbits import FewbitsError, Golomb, Key, LocalError, LocalSGD, Quantize, chain, gossip, topology
from fewbits.engines.gossip import node_pool
from fewbits.engines.gossip.shared_vectors import average, distance
from fewbits.learn import DSGD, L1, Choco, DeepSqueeze, Malcom, Node
from fewbits.learn.flat_model import FlatModel
from fewbits.links import ledger
from fewbits.simulation import GossipRun, Schedule
from fewbits.topology import IntermittentNodes

TORUS = topology.torus(6)
INTERMITTENT = IntermittentNodes(TORUS, 0.3, Key(2))
LOCAL = LocalSGD(lr=0.1, steps=2, batch_size=8)
METHODS = {
    "dsgd": (DSGD(), TORUS),
    "choco, intermittent": (Choco(position="mixed", momentum=0.5), INTERMITTENT),
    "malcom": (Malcom(regulariser=L1(1e-3)), TORUS),
    "deepsqueeze, intermittent": (DeepSqueeze(), INTERMITTENT),
}
FORK = multiprocessing.get_context("fork")


def start(name, folder=None, rounds=6, model=mlp, **settings):
    method, network = METHODS[name]
    on_disk = settings.pop("on_disk", False)
    schedule = Schedule(rounds, **({"processes": 1, "checkpoint_every": 2, "evaluate_every": 3} | settings))
    return GossipRun(task(network.n, model, LOCAL), method, network, schedule, KEY, folder, on_disk)


def evidence(run):
    """(all models, ledger, metrics) of a finished run with a folder."""
    return run.vectors.x.numpy().tobytes(), (run.folder / "ledger.jsonl").read_bytes(), metrics(run.folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    found = {}
    for name in METHODS:
        run = start(name, tmp_path_factory.mktemp("undisturbed"))
        run.run()
        found[name] = evidence(run)
    return found


@pytest.fixture(autouse=True)
def no_hang():
    """Fail a test that waits for ever."""

    def give_up(*_):
        pytest.fail("the test hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", METHODS)
def test_results_do_not_depend_on_the_number_of_processes(name, tmp_path, undisturbed):
    run = start(name, tmp_path, processes=4)
    run.run()
    assert evidence(run) == undisturbed[name]


def test_vectors_on_disk_give_the_same_bits(tmp_path, undisturbed):
    run = start("choco, intermittent", tmp_path, on_disk=True)
    run.run()
    assert evidence(run) == undisturbed["choco, intermittent"]
    assert (tmp_path / "vectors.bin").stat().st_size == run.vectors.x.numel() * 4 + 3 * run.vectors.public.numel() * 4


@pytest.mark.parametrize("name", METHODS)
def test_the_engine_gives_the_bits_of_single_nodes(name, undisturbed):
    method, network = METHODS[name]
    of = task(network.n, mlp, LOCAL)
    nodes = [Node(mlp(), method, network, i, KEY) for i in range(network.n)]
    for t in range(1, 7):
        frames = {}
        for node in nodes:

            def train(model, node=node, t=t):
                key = KEY.fold("round", t, "node", node.me)
                return LOCAL.lr * LOCAL.train(model, of.x, of.y, of.parts[node.me], key).steps

            if node.active:
                frames[node.me] = node.step(train)
        for node in nodes:
            for j in node.expected:
                node.receive(j, frames[j])
            node.mix()
    assert torch.stack([node.vectors.x for node in nodes]).numpy().tobytes() == undisturbed[name][0]


@pytest.mark.parametrize("name", METHODS)
def test_a_stopped_run_resumes_to_the_same_bytes(name, tmp_path, undisturbed):
    seen = []
    run = start(name, tmp_path)
    run.run(watch=seen.append, stop=lambda: len(seen) == 3)
    run.run(stop=lambda: run.round == 4)  # the same object again
    again = start(name, tmp_path, processes=2)
    assert again.round == 4
    again.run()
    assert evidence(again) == undisturbed[name]


@pytest.mark.parametrize("name", ["choco, intermittent", "malcom"])
def test_a_killed_run_resumes_to_the_same_bytes(name, tmp_path, undisturbed):
    def lead():
        signal.alarm(0)
        start(name, tmp_path, processes=2).run(
            watch=lambda report: os.kill(os.getpid(), signal.SIGKILL) if report.round == 5 else None
        )

    child = FORK.Process(target=lead)
    child.start()
    child.join(100)
    assert child.exitcode == -signal.SIGKILL
    again = start(name, tmp_path)
    assert again.round == 4
    again.run()
    assert evidence(again) == undisturbed[name]


def test_a_run_resumes_before_a_damaged_checkpoint(tmp_path, undisturbed):
    run = start("malcom", tmp_path)
    run.run()
    newest = tmp_path / "checkpoints" / "round-00000006.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    again = start("malcom", tmp_path)
    assert again.round == 4 and "cannot be used" in again.notes[0]
    again.run()
    assert evidence(again) == undisturbed["malcom"]


def test_the_ledger_counts_frames_once_and_once_per_neighbour(tmp_path):
    run = start("choco, intermittent", tmp_path, processes=2)
    frames = {}
    put = run.vectors.put_frame
    run.schedule = Schedule(6, processes=1)
    run.vectors.put_frame = lambda i, frame, *more: (
        frames.setdefault((run.round + 1, i), len(frame)),
        put(i, frame, *more),
    )
    report = run.run().reports[-1]
    entries = list(ledger.read(tmp_path / "ledger.jsonl"))
    assert {(e.round, e.client): e.frame_bytes for e in entries if e.direction == "up"} == frames
    assert report.frame_bytes == sum(frames.values())
    assert report.link_bytes == sum(size * len(TORUS.neighbours(i)) for (_, i), size in frames.items())
    assert report.inactive == len(INTERMITTENT.at(6).inactive)


def test_reports_equal_numpys_values():
    run = start("malcom")
    result = run.run()
    last, x = result.reports[-1], result.models.double().numpy()
    assert last.consensus == pytest.approx(np.linalg.norm(x - x.mean(0)), rel=1e-5)
    assert last.sparsity == (x == 0).mean()
    mean = FlatModel(result.model)
    np.testing.assert_allclose(mean.whole, x.mean(0), atol=1e-7)
    with torch.no_grad():
        right = [(result.model(run.task.test_x).argmax(1) == run.task.test_y).double().mean().item()]
        for i in range(6):
            mean.load_vector(result.models[i])
            right.append((result.model(run.task.test_x).argmax(1) == run.task.test_y).double().mean().item())
    assert [last.mean_accuracy, *last.accuracies] == pytest.approx(right)
    assert (last.accuracy, last.worst_accuracy) == (pytest.approx(np.mean(right[1:])), pytest.approx(min(right[1:])))
    assert last.spectral_gap == TORUS.gap


def test_stationarity_is_the_proximal_gradients_length():
    run = start("malcom")
    model, rows = FlatModel(mlp()), torch.from_numpy(np.concatenate(run.task.parts))
    loss = nn.functional.cross_entropy(model.module(run.task.x[rows]), run.task.y[rows])
    loss.backward()
    x, g = model.params.double().numpy(), model.grads.double().numpy()
    moved = x - 0.1 * g
    moved = np.sign(moved) * np.maximum(np.abs(moved) - 0.1 * 1e-3, 0)
    run._evaluator.model.load_vector(model.whole)
    assert run._evaluator.stationarity() == pytest.approx(np.linalg.norm(x - moved) / 0.1, rel=1e-4)


def test_reports_have_measured_entropy_and_predicted_bits():
    for report in start("malcom").run().reports:
        assert report.entropy_bits < report.coded_bits < 1.1 * report.entropy_bits  # small vectors: counts weigh
        assert report.predicted_bits == pytest.approx(report.coded_bits, rel=0.01)
    assert start("dsgd", rounds=1).run().reports[0].coded_bits is None


def test_malcom_learns_and_zeroes_weights_for_a_fraction_of_dense_bytes():
    def played(method):
        x, y = task().x, task().y
        rows = torch.arange(1200).view(200, 6).T
        local = LocalSGD(lr=0.2, steps=1, batch_size=32)
        pairs = [(x[node], y[node]) for node in rows]
        test = x[1200:1500], y[1200:1500]
        return gossip(
            mlp(), pairs, TORUS, method, 80, test=test, local=local, seed=7, evaluate_every=80, processes=2
        ).reports[-1]

    dense = played(DSGD())
    sparse = played(Malcom(chain(Quantize(bits=4), Golomb()), regulariser=L1(1e-2)))
    assert dense.accuracy > 0.8 and sparse.accuracy > dense.accuracy - 0.05
    assert sparse.sparsity > 0.1 and dense.sparsity == 0
    assert 8 * sparse.frame_bytes < dense.frame_bytes


def test_the_seed_decides_all_bytes_and_out_is_resumed(tmp_path):
    x, y = task().x, task().y
    pairs = [(x[i::6], y[i::6]) for i in range(6)]

    def models(seed, rounds=2, out=None):
        return gossip(mlp(), pairs, TORUS, DSGD(), rounds, inactive=0.3, seed=seed, out=out).models

    first = models(1).clone()
    assert torch.equal(models(1, out=tmp_path), first) and not torch.equal(models(2), first)
    assert torch.equal(models(1, 4, tmp_path), models(1, 4))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4


def test_buffers_of_batchnorm_are_averaged():
    def model():
        return filled(nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.Linear(12, 10)))

    one, four = (start("choco, intermittent", rounds=3, model=model, processes=p).run() for p in (1, 4))
    assert torch.equal(one.models, four.models)
    assert one.model[1].running_var.min() > 0


def test_the_mean_and_the_distance_are_those_of_numpy():
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(7, 30)).astype(np.float32))
    x = rows.double().numpy()
    np.testing.assert_allclose(average(rows), x.mean(0), atol=1e-7)
    assert distance(rows, average(rows)) == pytest.approx(np.linalg.norm(x - x.mean(0)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: GossipRun(task(5), DSGD(), TORUS, Schedule(1), KEY), "6 nodes, but the data has 5 parts"),
        (lambda p: GossipRun(task(6), "dsgd", TORUS, Schedule(1), KEY), "must be a GossipMethod"),
        (lambda p: GossipRun(task(6), DSGD(), "torus", Schedule(1), KEY), "such as fb.topology.torus"),
        (lambda p: GossipRun(task(6), DSGD(), TORUS, Schedule(1), 0), "must be a Key"),
        (lambda p: GossipRun(task(6), DSGD(), TORUS, Schedule(1, per_round=2), KEY), "all nodes take part"),
        (lambda p: start("dsgd", on_disk=True), "needs a folder"),
    ],
)
def test_a_wrong_argument_of_a_run_is_an_error(make, message, tmp_path):
    with pytest.raises(LocalError, match=message):
        make(tmp_path)


def test_another_run_in_the_folder_is_an_error_that_names_the_difference(tmp_path):
    start("dsgd", tmp_path, rounds=1).run()
    method, network = METHODS["malcom"]
    with pytest.raises(LocalError, match="its method:"):
        GossipRun(task(6, mlp, LOCAL), method, network, Schedule(2), KEY, tmp_path)
    with pytest.raises(LocalError, match="its network:"):
        GossipRun(task(6, mlp, LOCAL), DSGD(), topology.ring(6), Schedule(2), KEY, tmp_path)
    with pytest.raises(LocalError, match="its nodes:"):
        GossipRun(task(6, mlp, LOCAL, size=20), DSGD(), TORUS, Schedule(2), KEY, tmp_path)


@pytest.mark.parametrize("processes", [1, 3])
def test_a_node_whose_training_is_not_finite_takes_no_step_and_is_named(processes):
    of = task(6, mlp, LocalSGD(lr=1e30, steps=3))
    result = GossipRun(of, Choco(), TORUS, Schedule(3, processes=processes), KEY).run()
    assert [(r.skipped, r.train_loss, r.diverged) for r in result.reports] == [(6, None, True)] * 3
    assert result.notes[0] == "round 1: node 0 took no step: the trained model is not finite; likewise 1, 2, 3, 4, 5"
    assert result.notes[1] == "round 1: no node took a step" and torch.isfinite(result.models).all()


def test_a_run_that_ended_within_a_round_is_not_continued(monkeypatch):
    def fail(*_):
        raise LocalError("no frame")

    run = GossipRun(task(6, mlp), Choco(), TORUS, Schedule(3, processes=1), KEY)
    monkeypatch.setattr(node_pool.NodeWorker, "mix", fail)
    with pytest.raises(LocalError, match="no frame"):
        run.run()
    with pytest.raises(LocalError, match="ended within a round"):
        run.run()


def test_a_worker_that_dies_ends_the_run_with_a_sentence(tmp_path, monkeypatch):
    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(node_pool.NodeWorker, "mix", die)
    with pytest.raises(FewbitsError, match="exit code -9"):
        start("malcom", tmp_path, processes=2).run()
    monkeypatch.undo()
    assert start("malcom", tmp_path).run().reports[-1].round == 6


def test_an_error_of_the_users_model_reaches_the_parent():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            raise RuntimeError("odd one out")

    with pytest.raises(FewbitsError, match="odd one out"):
        start("dsgd", model=Odd, processes=2).run()


def test_metrics_can_be_read_again(tmp_path):
    run = start("malcom", tmp_path)
    result = run.run()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [r.round for r in result.reports] == list(range(1, 7))
    assert all(a["frame_bytes"] < b["frame_bytes"] for a, b in pairwise(lines))
    with suppress(KeyError):
        assert result.accuracy == lines[-1]["accuracy"]
