"""Noise in a run: every message is clipped and noisy, by keys of its own; epsilon is what the accountant says."""

import sys

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from digits_task import KEY, evidence, federation, mlp, task
from fewbits.errors import LocalError
from fewbits.federated import Server
from fewbits.federated.client_core import ClientCore
from fewbits.learn import LocalSGD
from fewbits.methods import build
from fewbits.privacy import DifferentialPrivacy, epsilon, local_epsilon
from fewbits.rng import Key

SIZE = sum(p.numel() for p in mlp().parameters())


@pytest.fixture(autouse=True)
def opacus():
    return pytest.importorskip("opacus")


def sent(monkeypatch):
    """What every client gave to its encoder, by round and client."""
    found, noisy = {}, ClientCore._noisy

    def watched(self, x, round, asked):
        before, after = x.clone(), noisy(self, x, round, asked).clone()
        found[round, self.number] = (before, after)
        return after

    monkeypatch.setattr(ClientCore, "_noisy", watched)
    return found


@pytest.mark.parametrize(("share", "parts"), [("local", 1), ("central", 6)])
def test_every_message_is_clipped_and_noisy_by_noise_of_its_own(share, parts, monkeypatch):
    found = sent(monkeypatch)
    federation(build("dp", {"clip": "0.01", "noise": "0.5", "share": share}), rounds=2).run()
    assert len(found) == 12
    noises = []
    for before, after in found.values():
        clipped = before * min(1.0, 0.01 / float(before.norm()))
        noises.append((after - clipped).double().numpy() / (0.01 * 0.5 / parts**0.5))
        assert kstest(noises[-1], "norm").pvalue > 1e-4
    correlations = np.corrcoef(noises) - np.eye(12)
    assert np.abs(correlations).max() < 6 / SIZE**0.5


def test_the_noise_of_a_round_with_central_shares_adds_up_to_that_of_one(monkeypatch):
    found = sent(monkeypatch)
    federation(build("dp", {"clip": "1e-9", "noise": "1", "share": "central"}), rounds=1).run()
    total = torch.stack([after for _, after in found.values()]).double().sum(0)
    assert len(found) == 6
    assert float(total.std()) == pytest.approx(1e-9, rel=0.1)


def test_in_a_subspace_its_numbers_are_clipped_and_noisy(monkeypatch):
    """After A^T: what leaves is of bounded norm, and no noise is spent on directions that are not sent."""
    found = sent(monkeypatch)
    federation(build("dp+intrinsic", {"dim": "256", "clip": "0.001", "noise": "0.1"}), rounds=1).run()
    for before, after in found.values():
        assert before.shape == after.shape == (256,) and float(before.norm()) > 0.001
        noise = (after - before * (0.001 / float(before.norm()))).double().numpy()
        assert kstest(noise / 1e-4, "norm").pvalue > 1e-4


def test_all_clients_count_alike(monkeypatch):
    weights, accept = [], Server.accept

    def watched(self, client, frame, weight):
        weights.append(weight)
        return accept(self, client, frame, weight)

    monkeypatch.setattr(Server, "accept", watched)
    method = build("dp+lbgm", {"normalise": "all"})
    run = federation(method, rounds=1, per_round=3)
    run.run()
    assert weights == [1, 1, 1] and run.server.total_weight == 6


def test_hardly_any_noise_and_no_clipping_train_as_the_mean_of_clients(monkeypatch):
    """theta after a round is theta0 minus the plain mean of what clients changed."""
    found = sent(monkeypatch)
    run = federation(build("dp", {"clip": "100", "noise": "0.01"}), rounds=1)
    start = torch.nn.utils.parameters_to_vector(run.task.model.parameters()).clone()
    run.run()
    end = torch.nn.utils.parameters_to_vector(run.task.model.parameters())
    mean = torch.stack([after for _, after in found.values()]).mean(0)
    torch.testing.assert_close(start - end, mean, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["dp+topk", "dp+fedpara+lbgm", "dp+intrinsic+fedpaq", "dp+pfedpara", "dp+feddyn"])
def test_any_method_runs_under_noise_to_the_same_bytes_in_any_number_of_processes(name, tmp_path):
    settings = {"dim": "64"} if "intrinsic" in name else {}
    runs = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        for rounds in (2, 4):
            runs.append(federation(build(name, settings), folder, rounds, processes=processes, per_round=3))
            runs[-1].run()
    assert evidence(runs[1]) == evidence(runs[3])
    assert [r.epsilon for r in runs[1].reports] == sorted(r.epsilon for r in runs[1].reports)


def test_local_epsilon_is_that_of_the_client_that_sent_most(tmp_path):
    method = build("dp", {"noise": "3", "delta": "1e-6"})
    run = federation(method, tmp_path, rounds=3, per_round=2)
    run.run()
    run = federation(method, tmp_path, rounds=7, per_round=2)  # resumed: turns before are counted
    run.run()
    turns = np.zeros(6, int)
    for report in run.reports:
        turns[run.server.key.fold("round", report.round - 1, "sample").subset(2, 6)] += 1
        assert report.epsilon == pytest.approx(local_epsilon(1e-6, 3.0, int(turns.max())))
    assert 7 * 2 / 6 <= turns.max() < 7


def test_central_epsilon_is_that_of_the_sampled_sum():
    run = federation(build("dp", {"noise": "2", "share": "central"}), rounds=3, per_round=3)
    run.run()
    assert [r.epsilon for r in run.reports] == pytest.approx([epsilon(1e-5, 2.0, 0.5, n) for n in (1, 2, 3)])


def test_a_run_without_noise_has_no_epsilon():
    (report,) = federation(build("dense"), rounds=1).run().reports
    assert report.epsilon is None


@pytest.mark.parametrize("name", ["dp+topk", "dp+fedpaq", "dp+lbgm", "dp+signsgd"])
def test_central_shares_need_an_uplink_that_loses_nothing(name):
    with pytest.raises(LocalError, match="share=central needs an uplink that loses nothing"):
        federation(build(name, {"share": "central"}))


def test_without_the_accountant_a_run_says_so_before_it_begins(monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus.accountants.analysis", None)
    with pytest.raises(LocalError, match=r"pip install 'fewbits\[dp\]'"):
        federation(build("dp", {"share": "central"}))


def test_noise_comes_from_the_clients_own_keys_and_never_from_the_common_one(monkeypatch):
    keys, apply = [], DifferentialPrivacy.apply

    def watched(self, x, key, asked):
        keys.append(key)
        return apply(self, x, key, asked)

    monkeypatch.setattr(DifferentialPrivacy, "apply", watched)
    federation(build("dp"), rounds=2).run()
    assert keys == [KEY.fold("client", c, "dp", r) for r in (1, 2) for c in range(6)]
    assert len({key.digest() for key in keys}) == 12


def test_an_update_that_is_not_finite_is_left_out():
    broken = task(local=LocalSGD(lr=1e30, batch_size=4, epochs=3))
    (report,) = federation(build("dp"), rounds=1, task=broken).run().reports
    assert report.skipped == 6 and report.clients == 0


def test_one_key_is_one_noise():
    privacy = DifferentialPrivacy()
    x = torch.ones(50)
    assert torch.equal(privacy.apply(x, Key(1)), privacy.apply(x, Key(1)))
    assert not torch.equal(privacy.apply(x, Key(1)), privacy.apply(x, Key(2)))
