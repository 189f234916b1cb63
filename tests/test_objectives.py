"""Local objectives: each is its paper's box, written again in NumPy, on a small convex problem of unlike clients."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from fewbits.errors import LocalError
from fewbits.factor.names import mark_private
from fewbits.federated.local_round import LocalRound
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.local import LocalSGD
from fewbits.learn.objective import Objective
from fewbits.learn.objectives import FedDyn, FedProx, Plain, Scaffold
from fewbits.learn.optimizers import FedAdam, FedDynServer, ServerOptimizer, ServerSGD
from fewbits.rng import Key

DIM, LR, STEPS = 4, 0.05, 10
SIZES = (8, 12, 20)  # examples by client
EQUAL = (10, 10, 10)
EVERYBODY, SOME = [(0, 1, 2)], [(0, 1, 2), (0, 2), (1,), (1, 2)]  # who takes part, in turn
ALL = [Plain(), FedProx(0.3), Scaffold(), FedDyn(0.2)]


def problem(sizes: tuple[int, ...] = SIZES) -> list[tuple[np.ndarray, np.ndarray]]:
    """Least squares; every client has another solution and another curvature."""
    draw = np.random.default_rng(0)
    found = []
    for i, n in enumerate(sizes):
        x = draw.standard_normal((n, DIM)) * np.roll([1.5, 1.0, 0.7, 0.4], i)
        found.append((x.astype(np.float32), (x @ draw.standard_normal(DIM) * 2).astype(np.float32)))
    return found


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return mse_loss(outputs.squeeze(1), targets) / 2


def gradient(data: tuple[np.ndarray, np.ndarray], w: np.ndarray) -> np.ndarray:
    x, y = data[0].astype(np.float64), data[1].astype(np.float64)
    return x.T @ (x @ w - y) / len(y)


def minimiser(sizes: tuple[int, ...] = SIZES) -> np.ndarray:
    """Of the mean loss over all examples of all clients."""
    data = problem(sizes)
    return np.linalg.lstsq(np.concatenate([x for x, _ in data]), np.concatenate([y for _, y in data]), rcond=None)[0]


def flat_model() -> FlatModel:
    model = FlatModel(nn.Linear(DIM, 1, bias=False))
    model.params.zero_()
    return model


@dataclass
class Run:
    """A federation without wires: what worker and server do with an objective."""

    objective: Objective
    optimizer: ServerOptimizer
    sizes: tuple[int, ...] = SIZES
    steps: int = STEPS
    lr: float = LR

    def __post_init__(self) -> None:
        self.data, self.model, self.theta = problem(self.sizes), flat_model(), torch.zeros(DIM)
        self.moments = self.optimizer.init(DIM)
        self.extra = tuple(torch.zeros(DIM) for _ in range(self.objective.server_vectors))
        self.kept = [tuple(torch.zeros(DIM) for _ in range(self.objective.client_vectors)) for _ in self.sizes]

    def round(self, clients: tuple[int, ...]) -> None:
        share = sum(self.sizes[k] for k in clients) / sum(self.sizes)
        moved, changed = torch.zeros(DIM), tuple(torch.zeros(DIM) for _ in self.extra)
        for k in clients:
            weight = self.sizes[k] / sum(self.sizes[j] for j in clients)
            update, extra = self.client(k)
            moved += weight * update
            changed = tuple(a + weight * b for a, b in zip(changed, extra, strict=True))
        self.theta, self.moments = self.optimizer.step(self.theta, moved, self.moments, share=share)
        self.extra = self.objective.absorb(self.extra, changed, share)

    def client(self, k: int) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        sgd = LocalSGD(self.lr, batch_size=0, steps=self.steps)
        self.objective.check(sgd)
        public, own = torch.cat([self.theta, *self.extra]), torch.cat([torch.zeros(0), *self.kept[k]])
        local = LocalRound(self.model, self.objective)
        local.load(public, own)
        x, y = (torch.from_numpy(a) for a in self.data[k])
        correct = local.correction(public, own)
        report = sgd.train(self.model, x, y, np.arange(len(y)), Key(0), loss=loss, correct=correct)
        out = torch.empty_like(public)
        own, _ = local.finish(public, own, report.steps, self.lr, out)
        self.kept[k] = tuple(torch.split(own, DIM)) if self.objective.client_vectors else ()
        update, *extra = torch.split(out, DIM)
        return update, tuple(extra)


# --- the papers' boxes, in NumPy


def fedprox(sizes, who, rounds, mu):
    w, data = np.zeros(DIM), problem(sizes)
    for t in range(rounds):
        clients, ends = who[t % len(who)], {}
        for k in clients:
            y = w.copy()
            for _ in range(STEPS):
                y -= LR * (gradient(data[k], y) + mu * (y - w))
            ends[k] = y
        w = sum(sizes[k] * ends[k] for k in clients) / sum(sizes[k] for k in clients)
    return w


def scaffold(sizes, who, rounds, lr_g):
    x, c, data = np.zeros(DIM), np.zeros(DIM), problem(sizes)
    ci = [np.zeros(DIM) for _ in sizes]
    for t in range(rounds):
        clients, dy, dc = who[t % len(who)], {}, {}
        for i in clients:
            y = x.copy()
            for _ in range(STEPS):
                y -= LR * (gradient(data[i], y) - ci[i] + c)
            new = ci[i] - c + (x - y) / (STEPS * LR)
            dy[i], dc[i], ci[i] = y - x, new - ci[i], new
        sampled = sum(sizes[i] for i in clients)
        x = x + lr_g * sum(sizes[i] * dy[i] for i in clients) / sampled
        c = c + sampled / sum(sizes) * sum(sizes[i] * dc[i] for i in clients) / sampled
    return x


def feddyn(sizes, who, rounds, alpha):
    w, h, data = np.zeros(DIM), np.zeros(DIM), problem(sizes)
    g = [np.zeros(DIM) for _ in sizes]
    for t in range(rounds):
        clients, ends = who[t % len(who)], {}
        for k in clients:
            y = w.copy()
            for _ in range(STEPS):
                y -= LR * (gradient(data[k], y) - g[k] + alpha * (y - w))
            g[k] = g[k] - alpha * (y - w)
            ends[k] = y
        h = h - alpha * sum(sizes[k] * (ends[k] - w) for k in clients) / sum(sizes)
        w = sum(sizes[k] * ends[k] for k in clients) / sum(sizes[k] for k in clients) - h / alpha
    return w


@pytest.mark.parametrize("sizes", [EQUAL, SIZES], ids=["equal", "unequal"])
@pytest.mark.parametrize("who", [EVERYBODY, SOME], ids=["everybody", "some"])
@pytest.mark.parametrize(
    ("objective", "optimizer", "oracle", "number"),
    [
        (Plain(), ServerSGD(), fedprox, 0.0),
        (FedProx(0.3), ServerSGD(), fedprox, 0.3),
        (Scaffold(), ServerSGD(), scaffold, 1.0),
        (Scaffold(), ServerSGD(0.5), scaffold, 0.5),
        (FedDyn(0.5), FedDynServer(0.5), feddyn, 0.5),
    ],
    ids=["fedavg", "fedprox", "scaffold", "scaffold-half", "feddyn"],
)
def test_rounds_are_the_papers_box(objective, optimizer, oracle, number, sizes, who):
    run = Run(objective, optimizer, sizes)
    for t in range(5):
        run.round(who[t % len(who)])
        np.testing.assert_allclose(run.theta.numpy(), oracle(sizes, who, t + 1, number), rtol=0, atol=1e-6)


# --- laws


@pytest.mark.parametrize(
    ("objective", "optimizer"), [(Scaffold(), ServerSGD()), (FedDyn(0.5), FedDynServer(0.5))], ids=str
)
@pytest.mark.parametrize("who", [EVERYBODY, SOME], ids=["everybody", "some"])
def test_it_reaches_the_minimiser_of_everybodys_loss_where_fedavg_stops_elsewhere(objective, optimizer, who):
    run, fedavg, best = Run(objective, optimizer, steps=50), Run(Plain(), ServerSGD(), steps=50), minimiser()
    for _ in range(20):
        fedavg.round((0, 1, 2))
    for t in range(80):
        run.round(who[t % len(who)])
    assert np.abs(run.theta.numpy() - best).max() < 1e-4
    assert np.abs(fedavg.theta.numpy() - best).max() > 0.5


def test_scaffolds_control_variate_is_the_plain_mean_of_the_clients():
    run = Run(Scaffold(), ServerSGD(), EQUAL)
    for _ in range(4):
        run.round((0, 1, 2))
        mean = sum(c_i for (c_i,) in run.kept) / len(run.kept)
        torch.testing.assert_close(run.extra[0], mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("objective", "optimizer", "at_the_server"),
    [
        (Scaffold(), ServerSGD(), lambda run: run.extra[0]),
        (FedDyn(0.5), FedDynServer(0.5), lambda run: run.moments[0]),
    ],
    ids=["scaffold", "feddyn"],
)
def test_the_server_holds_the_weighted_mean_of_what_clients_keep_whoever_takes_part(
    objective, optimizer, at_the_server
):
    run = Run(objective, optimizer)
    for t in range(8):
        run.round(SOME[t % len(SOME)])
        mean = sum(n * kept for n, (kept,) in zip(run.sizes, run.kept, strict=True)) / sum(run.sizes)
        torch.testing.assert_close(at_the_server(run), mean, rtol=0, atol=2e-6)


def test_one_full_batch_step_of_scaffold_keeps_the_clients_gradient():
    run = Run(Scaffold(), ServerSGD(), steps=1)
    for t in range(3):
        at = run.theta.numpy().astype(np.float64)
        run.round((0, 1, 2))
        for data, (c_i,) in zip(run.data, run.kept, strict=True):
            np.testing.assert_allclose(c_i.numpy(), gradient(data, at), rtol=0, atol=5e-6)


def test_scaffold_sees_weight_decay_as_part_of_the_loss():
    """The mean of the gradients of L + decay/2 |w|^2, along the way of plain SGD."""
    decay, model = 0.3, flat_model()
    data = problem()[0]
    x, y = (torch.from_numpy(a) for a in data)
    local = LocalSGD(LR, weight_decay=decay, batch_size=0, steps=3)
    Scaffold().check(local)
    start, zero = torch.ones(DIM), (torch.zeros(DIM),)
    model.params.copy_(start)
    local.train(model, x, y, np.arange(len(y)), Key(0), loss=loss)
    ((c_i,), _) = Scaffold().finish(start, model.params, zero, zero, 3, LR)
    w, total = np.ones(DIM), np.zeros(DIM)
    for _ in range(3):
        g = gradient(data, w) + decay * w
        w, total = w - LR * g, total + g
    np.testing.assert_allclose(c_i.numpy(), total / 3, rtol=0, atol=5e-6)


def test_fedprox_with_mu_0_is_fedavg_bit_for_bit():
    prox, plain = Run(FedProx(0.0), ServerSGD()), Run(Plain(), ServerSGD())
    for t in range(5):
        prox.round(SOME[t % len(SOME)])
        plain.round(SOME[t % len(SOME)])
        assert torch.equal(prox.theta, plain.theta)


def test_a_larger_mu_keeps_clients_closer():
    moved = []
    for mu in (0.0, 0.1, 1.0, 10.0):
        run = Run(FedProx(mu), ServerSGD())
        moved.append(float(torch.linalg.vector_norm(run.client(0)[0])))
    assert moved == sorted(moved, reverse=True) and moved[-1] < 0.5 * moved[0]


@pytest.mark.parametrize(
    ("objective", "added"),
    [
        (FedProx(0.3), lambda w, start, c, own: 0.15 * ((w - start) ** 2).sum()),
        (Scaffold(), lambda w, start, c, own: ((c - own) * w).sum()),
        (FedDyn(0.2), lambda w, start, c, own: -(own * w).sum() + 0.1 * ((w - start) ** 2).sum()),
    ],
    ids=["fedprox", "scaffold", "feddyn"],
)
def test_the_term_is_the_gradient_of_what_the_paper_adds_to_the_loss(objective, added):
    generator = torch.Generator().manual_seed(0)
    w, start, c, own, g = (torch.randn(7, generator=generator) for _ in range(5))
    at = w.clone().requires_grad_()
    added(at, start, c, own).backward()
    expected = g + at.grad
    objective.term(start, (c,) * objective.server_vectors, (own,) * objective.client_vectors)(w, g)
    torch.testing.assert_close(g, expected, rtol=0, atol=1e-6)


def test_parameters_that_do_not_travel_follow_the_plain_loss():
    linear = nn.Linear(3, 2)
    mark_private(linear, ["bias"])
    model = FlatModel(linear)
    model.shared_params.copy_(torch.arange(6.0))
    model.grads.copy_(torch.ones(8))
    LocalRound(model, FedProx(0.5)).correction(torch.ones(6), torch.zeros(2))(model)
    assert linear.weight.grad.flatten().tolist() == [0.5, 1, 1.5, 2, 2.5, 3] and linear.bias.grad.tolist() == [1, 1]
    assert linear.weight.flatten().tolist() == list(range(6))
    assert LocalRound(model, Plain()).correction(torch.ones(6), torch.zeros(2)) is None


@pytest.mark.parametrize("objective", ALL, ids=repr)
def test_an_objective_is_pure_and_gives_as_many_vectors_as_it_says(objective):
    start, end, w, g, c, own = (torch.full((5,), float(i)) for i in range(1, 7))
    extra, kept = (c,) * objective.server_vectors, (own,) * objective.client_vectors
    term = objective.term(start, extra, kept)
    if term is not None:
        term(w, g)
    once, twice = (objective.finish(start, end, extra, kept, 4, 0.1) for _ in range(2))
    served = objective.absorb(extra, once[1], 0.5)
    assert (len(once[0]), len(once[1]), len(served)) == (
        objective.client_vectors,
        objective.server_vectors,
        objective.server_vectors,
    )
    for a, b in zip((*once[0], *once[1]), (*twice[0], *twice[1]), strict=True):
        assert torch.equal(a, b) and a.dtype == torch.float32
    for i, x in ((1, start), (2, end), (3, w), (5, c), (6, own)):
        assert bool((x == i).all())


# --- mistakes


@pytest.mark.parametrize("local", [LocalSGD(0.1, momentum=0.9), LocalSGD(0.1, clip=1.0)], ids=["momentum", "clip"])
def test_scaffold_refuses_what_is_not_plain_sgd(local):
    with pytest.raises(LocalError, match=r"^Scaffold: .*without momentum and clip; got momentum .* and clip "):
        Scaffold().check(local)
    for other in (Plain(), FedProx(), FedDyn()):
        other.check(local)


def test_the_two_halves_of_feddyn_need_each_other_and_one_alpha():
    FedDyn(0.1).check_server(FedDynServer(0.1))
    Plain().check_server(FedAdam())
    Scaffold().check_server(ServerSGD(0.5))
    with pytest.raises(
        LocalError, match=r"FedDyn\(alpha=0.1\) needs FedDynServer\(alpha=0.1\) at the server; got .*0.2"
    ):
        FedDyn(0.1).check_server(FedDynServer(0.2))
    with pytest.raises(LocalError, match=r"needs FedDynServer\(alpha=0.1\) at the server; got ServerSGD"):
        FedDyn(0.1).check_server(ServerSGD())
    with pytest.raises(LocalError, match=r"half of an algorithm and needs the clients' half; got FedProx"):
        FedProx().check_server(FedDynServer())


@pytest.mark.parametrize(
    "make",
    [lambda x=x: FedProx(x) for x in (-0.1, float("nan"), float("inf"))]
    + [lambda x=x: FedDyn(x) for x in (0.0, -0.1, float("nan"), float("inf"))],
)
def test_numbers_out_of_range_are_refused_in_a_sentence(make):
    with pytest.raises(LocalError, match=r"^Fed(Prox|Dyn): (mu|alpha) must be .*finite.*; got "):
        make()
