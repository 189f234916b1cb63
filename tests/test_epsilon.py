"""The epsilon of a run is true: a numeric privacy loss agrees, for the draw, the noise and the divisor of the run."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import binomtest, kstest, norm

from digits_task import KEY, evidence, federation, mlp, task
from fewbits import Client, Key, LocalError, Server, WireError
from fewbits.analysis.forecast import forecast
from fewbits.federated.round_clients import sampled
from fewbits.methods import build
from fewbits.privacy import DifferentialPrivacy, epsilon, local_epsilon
from fewbits.privacy.account import PrivacyAccount, PrivacyLoss, shown
from fewbits.report.record import Record, total
from fewbits.report.table import cells, columns, rows, terminal


@pytest.fixture(autouse=True)
def opacus():
    return pytest.importorskip("opacus")


# an oracle: the loss of the pair of distributions on a grid, rounded to the nearest point, composed by convolution


def numeric(delta, sigma, q, rounds, half=40.0, step=2e-4):
    """Epsilon of sums in which one client is with chance q, and of sums without it; the larger direction."""
    n, edges = int(2 * half / step), np.linspace(-12 * sigma, 12 * sigma + 1, 2**17)
    middle = (edges[1:] + edges[:-1]) / 2
    without = np.diff(norm.cdf(edges / sigma))
    with_client = (1 - q) * without + q * np.diff(norm.cdf((edges - 1) / sigma))
    loss, found = np.log1p(q * np.expm1((2 * middle - 1) / (2 * sigma**2))), []
    for mass, of in ((with_client, loss), (without, -loss)):
        grid = np.bincount(np.rint(of / step).astype(int) % n, weights=mass, minlength=n)
        composed = np.fft.irfft(np.fft.rfft(grid) ** rounds, n)
        losses = np.arange(n) * step
        losses[losses >= half] -= 2 * half
        composed, losses = composed[losses > 0], losses[losses > 0]

        def excess(eps, p=composed, x=losses):
            return float(p[x > eps] @ -np.expm1(eps - x[x > eps])) - delta

        found.append(brentq(excess, 0, half - 1) if excess(0.0) > 0 else 0.0)
    return max(found)


@pytest.mark.parametrize(
    ("sigma", "q", "rounds", "step"),
    [
        (1.0, 0.01, 1000, 2e-4),
        (0.5, 0.01, 1000, 2e-4),
        (2.0, 0.1, 100, 2e-4),
        (0.8, 0.001, 10_000, 4e-5),
        (1.0, 0.5, 10, 2e-4),
        (3.0, 0.3, 200, 2e-4),
        (1.0, 1.0, 10, 2e-4),
        (1.0, 0.01, 1, 4e-5),
    ],
)
def test_epsilon_is_a_close_bound_of_the_numeric_privacy_loss(sigma, q, rounds, step):
    exact = numeric(1e-5, sigma, q, rounds, 2e5 * step, step)
    assert exact * (1 - 1e-3) <= epsilon(1e-5, sigma, q, rounds) <= exact * 1.01


def test_one_round_agrees_with_an_integral():
    sigma, q, eps = 1.5, 0.2, epsilon(1e-3, 1.5, 0.2, 1)

    def excess(x):
        without = norm.pdf(x, 0, sigma)
        return max(0.0, (1 - q) * without + q * norm.pdf(x, 1, sigma) - math.exp(eps) * without)

    found = quad(excess, -20, 40, points=[0, 1, 2, 3, 4, 5], limit=500)[0]
    assert 0.97e-3 <= found <= 1e-3


def test_a_draw_of_a_fixed_number_would_need_half_the_noise_and_the_run_does_not_draw_so():
    """sigma 1, rate .01, 1,000 rounds: 1.83 is true of coins; with a fixed number the sum moves by 2C: 13.3 or more."""
    assert numeric(1e-5, 0.5, 0.01, 1000) > 13.3
    assert epsilon(1e-5, 0.5, 0.01, 1000) > 13.3
    assert epsilon(1e-5, 1.0, 0.01, 1000) == pytest.approx(1.83, abs=0.01)
    counts = [len(sampled(Key(5), round, 1000, 10, poisson=True)) for round in range(400)]
    assert len(set(counts)) > 10 and 3500 < sum(counts) < 4500


@pytest.mark.parametrize("delta", [1e-9, 1e-12, 1e-300])
def test_for_a_tiny_delta_it_is_still_a_bound(delta):
    assert epsilon(1e-8, 1.0, 0.01, 1000) < epsilon(delta, 1.0, 0.01, 1000) < math.inf
    assert local_epsilon(1e-8, 1.0, 3) < local_epsilon(delta, 1.0, 3) < math.inf


def test_local_epsilon_is_that_of_one_client_replaced_and_composes_as_a_gaussian():
    for sigma, messages in [(1.0, 1), (4.0, 10), (30.0, 1000)]:
        moved = 2 * math.sqrt(messages) / sigma

        def excess(eps, mu=moved):
            return norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * norm.cdf(-mu / 2 - eps / mu) - 1e-5

        assert local_epsilon(1e-5, sigma, messages) == pytest.approx(brentq(excess, 0, 200), rel=1e-6)
    assert local_epsilon(1e-5, 1.0, 0) == 0 == epsilon(1e-5, 1.0, 0.3, 0)


@pytest.mark.parametrize("call", [epsilon, lambda d, s, q, t: local_epsilon(d, s, t)])
def test_no_noise_is_refused(call):
    with pytest.raises(LocalError, match="noise_multiplier must be a number in"):
        call(1e-5, 0.0, 0.5, 1)


def test_an_epsilon_that_promises_nothing_is_shown_as_such():
    assert shown(epsilon(1e-5, 0.01, 0.5, 50)) == "> 100" == shown(local_epsilon(1e-5, 0.01, 50))


# the draw


def test_every_client_has_a_coin_of_its_own():
    draws = np.zeros((600, 12))
    for round in range(600):
        draws[round, sampled(KEY, round, 12, 3, poisson=True)] = 1
    assert all(binomtest(int(n), 600, 0.25).pvalue > 1e-4 for n in draws.sum(0))
    assert abs(np.corrcoef(draws.T) - np.eye(12)).max() < 0.2
    sizes = np.bincount(draws.sum(1).astype(int), minlength=13)
    assert sizes[0] > 5, "a round may be empty"
    assert draws.sum(1).var() == pytest.approx(12 * 0.25 * 0.75, rel=0.25)


def test_everybody_takes_part_when_everybody_is_asked_for():
    assert sampled(KEY, 0, 9, 9, poisson=True) == sampled(KEY, 0, 9, 99, poisson=True) == list(range(9))


def test_only_central_noise_is_drawn_by_coins():
    for settings, poisson in [({}, False), ({"share": "central"}, True)]:
        assert build("dp", settings).poisson is poisson
        server = Server(mlp(), build("dp", settings).for_round_size(2), Key(3))
        assert server.sample(6, 2) == sampled(Key(3), 0, 6, 2, poisson)


# the noise and the divisor


def central(**more):
    return build("dp", {"share": "central", "noise": "1", "clip": "1e-3"} | more)


def moved(run, rounds):
    """What the model moved by in each round."""
    before, found = torch.nn.utils.parameters_to_vector(run.task.model.parameters()).clone(), []
    for _ in zip(range(rounds), run, strict=False):
        now = torch.nn.utils.parameters_to_vector(run.task.model.parameters()).clone()
        found.append((before - now).detach())
        before = now
    return found


def test_every_round_has_the_whole_noise_over_the_expected_number_whoever_was_drawn():
    run = federation(central(clip="1e-6"), rounds=12, per_round=2)
    rounds, sizes = moved(run, 12), [report.clients for report in run.reports]
    assert 0 in sizes and len(set(sizes)) > 2
    for x in rounds:
        assert float(x.std()) == pytest.approx(0.5e-6, rel=0.12)  # sigma C / 2; the clipped updates are far smaller
    empty = sizes.index(0) + 1
    assert f"round {empty}: no client was drawn; the model moved by noise alone" in run.notes
    assert all(json.dumps(vars(report), allow_nan=False) for report in run.reports)


@pytest.mark.parametrize("name", ["dp", "dp+intrinsic", "dp+masked"])
def test_noise_of_clients_whose_frame_is_rejected_comes_from_the_server(name, monkeypatch):
    accept = Server.accept

    def damaged(self, who, frame, weight):
        return accept(self, who, bytes(frame)[:-1] if who < 2 else frame, weight)

    monkeypatch.setattr(Server, "accept", damaged)
    settings = {"share": "central", "clip": "1e-6"} | ({"dim": "900"} if "intrinsic" in name else {})
    steps, publish = [], Server.step

    def watched(self):
        sums = self._sum
        publish(self)
        steps.append(sums.mean(1.0)[0])

    monkeypatch.setattr(Server, "step", watched)
    run = federation(build(name, settings), rounds=1)
    (report,) = run.run().reports
    assert report.rejected == 2 and report.clients == 4
    noise = steps[0].double().numpy() / 1e-6
    assert noise.std() == pytest.approx(1.0, rel=0.1) and kstest(noise / noise.std(), "norm").pvalue > 1e-4


def test_in_subspaces_of_few_clients_each_sum_has_the_whole_noise(monkeypatch):
    found, step = [], Server.step

    def watched(self):
        sums = self._sum
        step(self)
        found.append(sums.mean(1.0)[0].reshape(3, 200))

    monkeypatch.setattr(Server, "step", watched)
    settings = {"share": "central", "clip": "1e-6", "dim": "200", "mode": "k-subspace", "k": "3"}
    federation(build("dp+intrinsic", settings), rounds=1).run()
    for sum_of_one in found[0]:
        assert float(sum_of_one.std()) == pytest.approx(1e-6, rel=0.2)


def test_masks_cut_no_noise():
    """A cut of one noisy message is no function of the noisy sum."""
    method = build("dp+masked", {"share": "central", "clip": "2", "noise": "3"}).for_round_size(4)
    assert method.masking.largest == pytest.approx(2 * (1 + 12.8 * 3 / 2**0.5))
    wide = build("dp+masked", {"share": "central", "largest": "1000"}).for_round_size(4)
    assert wide.masking.largest == 1000
    assert build("masked").for_round_size(4).masking.largest == 1


def test_a_round_in_which_nobody_arrives_is_noise_alone():
    from fewbits.learn import LocalSGD

    broken = task(local=LocalSGD(lr=1e30, batch_size=4, epochs=3))
    run = federation(central(), rounds=1, task=broken)
    (x,) = moved(run, 1)
    assert float(x.std()) * 6 == pytest.approx(1e-3, rel=0.1)
    assert "round 1: no update arrived; the model moved by noise alone" in run.notes
    result = federation(central(), rounds=1, task=broken).run()
    assert "no client counted in any round; the model moved by noise alone" in result.notes


def test_different_sums_of_one_round_share_no_noise():
    privacy = DifferentialPrivacy(share="central", clients=4)
    assert privacy.missing(100, 4, 4, Key(1)) is None
    assert DifferentialPrivacy().missing(100, 4, 2, Key(1)) is None
    found = []
    for trained in (1.0, 2.0):
        server = Server(torch.nn.Linear(40, 10, bias=False), central().for_round_size(2), Key(8))
        client = Client(torch.nn.Linear(40, 10, bias=False), server.method, Key(9))
        server.expect([0, 1])
        client.receive(server.bundle(0))
        with torch.no_grad():
            client.model.weight.copy_(torch.eye(10, 40) * trained)
        assert server.accept(0, client.reply(clients=(0, 1)), 1) is not None
        sums = server._sum
        server.step()
        found.append(sums._noise[0])
    assert abs(np.corrcoef(found[0], found[1])[0, 1]) < 0.2


def test_a_loop_must_say_who_was_asked():
    method = central().for_round_size(2)
    server, client = Server(mlp(), method, Key(8)), Client(mlp(), method, Key(9))
    client.receive(server.bundle(0))
    with pytest.raises(LocalError, match=r"needs the numbers of the round's clients.*got \[\]"):
        client.reply()
    with pytest.raises(LocalError, match="must know the round's clients; call `sample`, or `expect`"):
        server.step()
    server.expect([1])
    with pytest.raises(WireError, match="client 0 is not one of the round's 1 clients"):
        server.take(0, client.reply(clients=(0,)), 1)


# what is said


def test_a_resumed_run_has_the_same_epsilons(tmp_path):
    whole = federation(central(), tmp_path / "whole", rounds=5, per_round=2)
    whole.run()
    for rounds in (2, 5):
        parts = federation(central(), tmp_path / "parts", rounds, per_round=2, processes=2)
        parts.run()
    assert evidence(whole) == evidence(parts)
    central_figures = [report.epsilon for report in parts.reports]
    assert central_figures == [epsilon(1e-5, 1.0, 2 / 6, n) for n in range(1, 6)]


def test_the_server_of_central_noise_sees_messages_with_a_part_of_it():
    run = federation(build("dp", {"share": "central", "noise": "2"}), rounds=3)
    report = run.run().reports[-1]
    assert report.epsilon_local == pytest.approx(local_epsilon(1e-5, 2 / math.sqrt(6), 3))
    masked = federation(build("dp+masked", {"share": "central", "noise": "2"}), rounds=3).run().reports[-1]
    assert masked.epsilon_local == pytest.approx(local_epsilon(1e-5, 2.0, 3)) and masked.epsilon == report.epsilon


def test_the_local_figure_is_that_of_the_client_that_was_asked_most():
    account = PrivacyAccount(DifferentialPrivacy(noise=3.0), everybody=5)
    assert account.loss().epsilon == 0
    for clients in ([0, 1], [1, 2], [1], []):
        account.add(clients, len(clients))
    assert account.loss().epsilon == pytest.approx(local_epsilon(1e-5, 3.0, 3))


def test_beside_every_number_stand_the_neighbours_delta_and_the_adversary(tmp_path):
    folders = {"dp": build("dp", {"noise": "4"}), "central": build("dp", {"share": "central", "delta": "1e-6"})}
    for name, method in folders.items():
        federation(method, tmp_path / name, rounds=2, per_round=3).run()
    records = [Record.read(tmp_path / name, name, 0) for name in folders]
    local, noisy_sum = (
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in folders
    )
    assert (local["epsilon_kind"], local["neighbours"], local["delta"]) == ("local", "one client's data replaced", 1e-5)
    assert local["epsilon"] == local["epsilon_local"]
    assert noisy_sum["epsilon_kind"] == "central" and noisy_sum["neighbours"] == "with or without one client"
    assert noisy_sum["delta"] == 1e-6 and noisy_sum["epsilon_local"] > noisy_sum["epsilon"]
    assert records[1].summary() | {"epsilon_kind": "central", "delta": 1e-6} == records[1].summary()
    found = rows(records)
    assert [cells(row, ["epsilon"])[0].split()[-1] for row in found] == ["local", "central"]
    assert "epsilon" in columns(found) and total(records[0].last) > 0
    caption = str(terminal(found).caption)
    assert "central (with or without one client, delta 1e-06)" in caption
    assert "local (one client's data replaced, delta 1e-05)" in caption


def test_both_figures_in_words():
    loss = PrivacyLoss(1.234, "central", "with or without one client", 1e-6, 1e9)
    assert loss.text() == (
        "1.23 central (with or without one client, delta 1e-06); > 100 local (one client's data replaced)"
    )


def test_the_plan_counts_the_clients_that_the_coins_draw():
    method = build("dp", {"share": "central"})
    (line,) = forecast(mlp, method, clients=6, per_round=2, rounds=9, key=KEY)
    drawn = sum(len(sampled(KEY.fold("server"), round, 6, 2, poisson=True)) for round in range(9))
    assert line.contacts == drawn and drawn != 18
