"""Laws of runs in random subspaces: s and A^T g travel, in the paper's messages; all ends hold the same model."""

from contextlib import suppress
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from digits_task import KEY, LOCAL, evidence, federation, filled, mlp, task
from fewbits.codecs import Basis
from fewbits.errors import DesyncError, LocalError, WireError
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.intrinsic_space import IntrinsicSpace
from fewbits.links import SharedInit
from fewbits.links.epochs import EpochBroadcast, EpochSubscriber
from fewbits.links.ledger import read
from fewbits.methods import build, dense, intrinsic
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.wire.frame import HEADER_BYTES

SIZE = sum(p.numel() for p in mlp().parameters())
MODES = ["static", "time-varying", "k-subspace"]
OUTSIDE = {"local": "outside", "basis": "fastfood", "scale": "orthonormal"}  # the paper's


def outside(*over, **options):
    """The paper's method: A^T of what the local steps changed."""
    return intrinsic(*over, **OUTSIDE | options)


def outside_text(name, settings):
    return build(name, OUTSIDE | settings)


def vector(module: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach()


def test_a_square_orthonormal_basis_trains_as_without_one():
    whole = federation(dense(momentum=0.5), rounds=4).run().model
    square = outside(dense(momentum=0.5), dim=SIZE, basis="hadamard")
    torch.testing.assert_close(vector(federation(square, rounds=4).run().model), vector(whole), atol=2e-5, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_a_run_is_the_papers_algorithm_by_hand(mode):
    """theta0 + A s; up A^T of the update; the server steps on the sums of what came, subspace by subspace."""
    space = IntrinsicSpace(64, mode, k=3, epoch=2)
    run = federation(outside(dim=64, mode=mode, k=3, epoch=2), rounds=5, per_round=4)
    start, own = vector(run.task.model).double(), run.task
    theta, s = start.clone(), torch.zeros(space.subspaces, 64, dtype=torch.float64)
    columns = {
        (e, j): torch.stack([space.matrix(SIZE, e, j).expand(row) for row in torch.eye(64)]).T.double()
        for e in range(3)
        for j in range(space.subspaces)
    }
    local = FlatModel(mlp())
    for number in range(1, 6):
        epoch = 0 if mode == "static" else (number - 1) // 2
        now = theta + sum(columns[epoch, j] @ s[j] for j in range(space.subspaces))
        clients = run.server.key.fold("round", number - 1, "sample").subset(4, 6)
        weight, sums = 0, torch.zeros_like(s)
        for client in map(int, clients):
            local.params.copy_(now)
            rows = own.parts[client]
            own.local.train(local, own.x, own.y, rows, KEY.fold("round", number, "client", client))
            j = space.which(number, client)
            sums[j] += len(rows) * (columns[epoch, j].T @ (now.float() - local.params).double())
            weight += len(rows)
        s -= sums / weight
        if mode != "static" and number % 2 == 0:
            theta, s = theta + sum(columns[epoch, j] @ s[j] for j in range(space.subspaces)), torch.zeros_like(s)
    expected = theta + sum(columns[2 if mode != "static" else 0, j] @ s[j] for j in range(space.subspaces))
    found = vector(run.run().model).double()
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    assert float((found - start).norm()) > 0.01


@pytest.mark.parametrize(("mode", "count"), [("static", 1), ("time-varying", 1), ("k-subspace", 3)])
def test_messages_hold_what_the_paper_says(mode, count, tmp_path):
    """Up d. Down, at full participation: s, and the final of the last epoch at an epoch's first contact."""
    federation(outside(dim=32, mode=mode, k=3, epoch=2), tmp_path, rounds=6).run()
    s, whole = HEADER_BYTES + 4 * 32 * count, HEADER_BYTES + 4 * SIZE
    for entry in read(tmp_path / "ledger.jsonl"):
        if entry.direction == "up":
            assert entry.frame_bytes == HEADER_BYTES + 4 * 32
        else:
            finals = mode != "static" and entry.round in (3, 5)
            frames = [whole, s] if entry.round == 1 else [s, s] if finals else [s]
            assert 0 < entry.frame_bytes - sum(frames) <= 1 + 3 * len(frames), "lengths and their count"


class Matrices:
    """Subspaces written out, for links alone; an epoch has `length` versions, the first one `first`."""

    def __init__(self, size=200, numel=8, length=3, first=None):
        self.numel, self._length, self._offset = numel, length, length - (first or length)
        self._matrices = {e: torch.randn(size, numel, generator=Key(e).generator()) for e in range(40)}

    def epoch_of(self, version):
        return (version - 1 + self._offset) // self._length

    def expand(self, size, epoch, s):
        return self._matrices[epoch] @ s


THETA = torch.randn(200, generator=Key(99).generator())
SPEC = Spec((200,))


def broadcast(space, keep=1024, seed=None):
    server = EpochBroadcast(space, SPEC, Key(0), keep, seed)
    server.publish({"theta_e": THETA})
    return server


def test_every_receiver_holds_the_same_bits_however_long_it_was_away():
    space = Matrices()
    server, followers = broadcast(space), [EpochSubscriber(space, SPEC) for _ in range(6)]
    generator = np.random.default_rng(0)
    for version in range(1, 30):
        server.publish({"s": torch.randn(8, generator=Key(version).generator())})
        assert bool(server.current["s"].any()) == (version % 3 != 0), "zero at the beginning of an epoch"
        for one in followers:
            if generator.random() < 0.3:
                one.receive(server.bundle(one.version or None))
    for one in followers:
        one.receive(server.bundle(one.version or None))
        assert torch.equal(one.value["theta_e"], server.value["theta_e"])
        assert (one.version, one.epoch) == (server.version, server.epoch)


def test_a_seed_stands_for_theta_0_until_the_finals_since_are_longer():
    seed = SharedInit(Key(99), lambda key: {"theta_e": torch.randn(200, generator=key.generator())})
    space = Matrices(length=2, first=1)
    server = broadcast(space, seed=seed)
    s, whole = HEADER_BYTES + 32, HEADER_BYTES + 800
    lengths = []
    for _ in range(1, 50):
        late = EpochSubscriber(space, SPEC, seed.build)
        assert torch.equal(late.receive(server.bundle(None))["theta_e"], server.value["theta_e"])
        lengths.append(sum(map(len, server.frames(None))))
        again = EpochBroadcast(space, SPEC, Key(0))
        again.load(server.dump())
        assert again.frames(None) == server.frames(None)
        server.publish({"s": torch.ones(8)})
    assert lengths[0] == s + HEADER_BYTES + 2 + len("[99]") + 8
    assert lengths == sorted(lengths) and lengths[-1] == whole + s
    with pytest.raises(DesyncError, match="another model"):
        EpochSubscriber(space, SPEC, lambda key: {"theta_e": torch.zeros(200)}).receive(
            broadcast(space, seed=seed).bundle(None)
        )


def test_the_shorter_way_is_taken_and_an_old_version_falls_back_to_the_whole():
    server = broadcast(Matrices(), keep=5)
    for version in range(1, 36):
        server.publish({"s": torch.ones(8)})
    s, whole = HEADER_BYTES + 32, HEADER_BYTES + 800
    for version in range(1, server.version):
        missed = server.epoch - (version - 1) // 3
        ways = [whole + s] + ([(missed + 1) * s] if missed <= 5 else [])
        assert sum(map(len, server.frames(version))) == min(ways)
    assert server.frames(server.version) == [] and sum(map(len, server.frames(None))) == whole + s


def test_what_does_not_lead_to_the_newest_version_is_refused_and_changes_nothing():
    space = Matrices(length=2, first=1)
    server, one = broadcast(space), EpochSubscriber(space, SPEC)
    with pytest.raises(DesyncError, match="without all that it takes"):
        one.receive(server.bundle(1))
    one.receive(server.bundle(None))
    old = server.bundle(1)
    for _ in range(1, 8):
        server.publish({"s": torch.ones(8)})
    before = one.value["theta_e"].clone()
    with pytest.raises(DesyncError, match="final of epoch 0 comes next; got that of epoch 3"):
        one.receive(server.bundle(6))
    assert torch.equal(one.value["theta_e"], before) and one.version == 1
    one.receive(server.bundle(1))
    with pytest.raises(DesyncError):
        one.receive(old)
    with pytest.raises(WireError, match="another codec"):
        one.receive(broadcast(Matrices(numel=9)).bundle(None))


@pytest.mark.parametrize("seeded", [False, True])
def test_no_earlier_bundle_leads_back_and_after_a_restored_server_receivers_begin_again(seeded):
    seed = SharedInit(Key(99), lambda key: {"theta_e": torch.randn(200, generator=key.generator())})
    space = Matrices()
    server = broadcast(space, seed=seed if seeded else None)
    one, bundles = EpochSubscriber(space, SPEC, seed.build), []
    dumps = []
    for version in range(1, 12):
        bundles.append(server.bundle(one.version))
        value = one.receive(bundles[-1])["theta_e"].clone()
        for old in bundles:
            with suppress(DesyncError):
                one.receive(old)
            assert one.version == version and torch.equal(one.value["theta_e"], value)
        assert torch.equal(value, server.value["theta_e"])
        dumps.append(server.dump())
        server.publish({"s": torch.full((8,), 1.0 / version)})
    again = EpochBroadcast(space, SPEC, Key(0))
    again.load(dumps[4])
    for bundle in (again.bundle(None), again.bundle(3)):
        with pytest.raises(DesyncError):
            one.receive(bundle)
        assert one.version == 11
    one.load(None)
    assert (one.version, one.value) == (0, None)
    for _ in range(4):
        assert torch.equal(one.receive(again.bundle(one.version))["theta_e"], again.value["theta_e"])
        again.publish({"s": torch.ones(8)})
        assert again.current["s"].shape == (8,)


def normed() -> nn.Module:
    return filled(nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10)))


@pytest.mark.parametrize("model", [mlp, normed])
@pytest.mark.parametrize("mode", MODES)
def test_a_run_goes_on_to_the_same_bytes_whatever_the_number_of_processes(mode, model, tmp_path):
    method = outside(dense(momentum=0.5), dim=48, mode=mode, k=2, epoch=3)
    found = []
    for name, stops in {"whole": [7], "parts": [2, 4, 7]}.items():
        runs = []
        for processes, rounds in enumerate(stops, start=1):
            runs.append(
                federation(
                    method, tmp_path / name, rounds=rounds, per_round=4, processes=processes, task=task(model=model)
                )
            )
            runs[-1].run()
        found.append(evidence(runs[-1])[:3])
    assert found[0] == found[1]


def test_clients_of_one_round_are_divided_among_the_subspaces():
    space = IntrinsicSpace(8, "k-subspace", k=4)
    counts = np.bincount([space.which(3, client) for client in range(4000)], minlength=4)
    assert counts.sum() == 4000 and 900 < counts.min() <= counts.max() < 1100
    assert {IntrinsicSpace(8, "static", k=4).which(1, client) for client in range(50)} == {0}


@pytest.mark.parametrize("name", ["intrinsic+lbgm", "intrinsic+fedpaq", "intrinsic+topk"])
def test_any_uplink_goes_over_the_numbers_of_the_subspace(name, tmp_path):
    settings = {"dim": "128", "mode": "time-varying", "epoch": "2", "down": "dense"}
    result = federation(outside_text(name, settings), tmp_path, rounds=4).run()
    plain = federation(outside(dim=128, mode="time-varying", epoch=2), tmp_path / "plain", rounds=4).run()
    assert result.ledger.frame_bytes["up"] < plain.ledger.frame_bytes["up"] or name == "intrinsic+lbgm"
    assert result.ledger.frame_bytes["down"] == plain.ledger.frame_bytes["down"]


@pytest.mark.parametrize("mode", MODES)
def test_a_round_reports_how_much_of_its_updates_the_subspaces_hold(mode, monkeypatch):
    """(D/d) |A^T u|^2 / |u|^2 with A written out, in float64, mean over the round's clients."""
    updates, project = [], Basis.project

    def watched(self, x):
        columns = torch.stack([self.expand(row) for row in torch.eye(self.dim)]).double()
        inside = (columns / columns.norm(dim=1, keepdim=True).mean()) @ x.double()
        updates.append(float(SIZE / self.dim * inside @ inside / (x.double() @ x.double())))
        return project(self, x)

    monkeypatch.setattr(Basis, "project", watched)
    reports = federation(outside(dim=48, mode=mode, k=3, epoch=2), rounds=3, per_round=4).run().reports
    for report, own in zip(reports, np.split(np.array(updates[-12:]), 3), strict=True):
        assert report.isotropy == pytest.approx(own.mean(), rel=1e-2), "columns are of length 1, nearly"


@pytest.mark.parametrize(("scale", "share"), [("orthonormal", 64 / SIZE), ("unbiased", 1.0)])
def test_the_effective_step_is_how_far_the_model_goes_along_a_gradient_on_average(scale, share):
    (report,) = federation(outside(dim=64, scale=scale), rounds=1).run().reports
    assert report.effective_step == pytest.approx(LOCAL.lr * share)
    g = torch.randn(SIZE, generator=Key(1).generator())
    seeds = [IntrinsicSpace(64, scale=scale, seed=seed).matrix(SIZE, 0, 0) for seed in range(60)]
    gone = [float(g @ (LOCAL.lr * m.expand(m.project(g))) / (g @ g)) for m in seeds]
    assert np.mean(gone) == pytest.approx(report.effective_step, rel=4 * np.std(gone) / np.mean(gone) / 60**0.5)


def test_a_run_without_subspaces_has_no_figures_of_them():
    (report,) = federation(dense(), rounds=1).run().reports
    assert report.isotropy is None and report.effective_step is None


def test_versions_name_epochs_as_rounds_do():
    space = IntrinsicSpace(8, "time-varying", epoch=3)
    assert [space.epoch_of(version) for version in range(1, 8)] == [0, 0, 0, 1, 1, 1, 2]
    assert all(b - a in (0, 1) for a, b in pairwise(map(space.epoch_of, range(1, 50))))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: IntrinsicSpace(8, "sometimes"),
            "mode must be one of static, time-varying, k-subspace, growing; got 'sometimes'",
        ),
        (lambda: IntrinsicSpace(0), "dim must be a whole number, 1 or more; got 0"),
        (lambda: IntrinsicSpace(8, basis="fourier"), "fourier"),
        (lambda: federation(outside(dim=SIZE + 1)), str(SIZE)),
        (lambda: federation(outside_text("intrinsic+scaffold", {"dim": "8"})), "cannot carry the 1 vectors"),
        (lambda: outside_text("intrinsic", {"down": "delta8"}), "local='outside' s travels down as it is"),
        (lambda: outside(mode="growing"), "mode 'growing' is for local='inside'"),
        (lambda: intrinsic(local="nearby"), "local must be one of inside, outside; got 'nearby'"),
    ],
)
def test_bad_input_gets_a_sentence(make, said):
    with pytest.raises(LocalError, match=said):
        make()
