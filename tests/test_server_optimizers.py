"""Server optimisers: each is its paper's box, written again in NumPy."""

import numpy as np
import pytest
import torch

from fewbits.errors import LocalError
from fewbits.learn.optimizers import FedAdam, FedDynServer, FedYogi, ServerOptimizer, ServerSGD

ROUNDS, NUMEL = 6, 9
ALL = [
    ServerSGD(),
    ServerSGD(0.5, 0.9),
    ServerSGD(0.7, 0.9, nesterov=True),
    FedAdam(),
    FedYogi(),
    FedYogi(0.1, 0.5, 0.7, 0.05),
    FedDynServer(0.3),
]


def updates() -> np.ndarray:
    """Of very different sizes, with a zero, so that Yogi's v moves both ways."""
    drawn = np.random.default_rng(0).standard_normal((ROUNDS, NUMEL))
    drawn *= np.array([1.0, 3.0, 0.01, 1.0, 0.1, 0.0])[:, None]
    return drawn.astype(np.float32)


def shares() -> list[float]:
    return [1.0, 0.25, 0.5, 1.0, 0.125, 0.75]


def play(optimizer: ServerOptimizer) -> tuple[list[np.ndarray], tuple[torch.Tensor, ...]]:
    theta, moments = torch.linspace(-1, 1, NUMEL), optimizer.init(NUMEL)
    seen = []
    for update, share in zip(updates(), shares(), strict=True):
        theta, moments = optimizer.step(theta, torch.from_numpy(update), moments, share=share)
        seen.append(theta.numpy())
    return seen, moments


def adaptive(lr: float, beta1: float, beta2: float, tau: float, yogi: bool) -> list[np.ndarray]:
    """Reddi et al. 2021, Algorithm 2, entry by entry in float64."""
    x = np.linspace(-1, 1, NUMEL)
    m, v, seen = np.zeros(NUMEL), np.full(NUMEL, tau**2), []
    for update in updates().astype(np.float64):
        for j in range(NUMEL):
            delta = -update[j]
            m[j] = beta1 * m[j] + (1 - beta1) * delta
            if yogi:
                v[j] = v[j] - (1 - beta2) * delta**2 * np.sign(v[j] - delta**2)
            else:
                v[j] = beta2 * v[j] + (1 - beta2) * delta**2
            x[j] = x[j] + lr * m[j] / (np.sqrt(v[j]) + tau)
        seen.append(x.copy())
    return seen


@pytest.mark.parametrize("kind", [FedAdam, FedYogi])
@pytest.mark.parametrize("numbers", [(1e-2, 0.9, 0.99, 1e-3), (0.1, 0.5, 0.7, 0.05), (1.0, 0.0, 0.0, 1.0)], ids=str)
def test_adam_and_yogi_are_algorithm_2(kind, numbers):
    seen, _ = play(kind(*numbers))
    for mine, oracle in zip(seen, adaptive(*numbers, yogi=kind is FedYogi), strict=True):
        np.testing.assert_allclose(mine, oracle, rtol=0, atol=1e-6)


def test_the_defaults_are_the_papers():
    assert FedAdam() == FedAdam(1e-2, 0.9, 0.99, 1e-3)
    assert FedYogi() == FedYogi(1e-2, 0.9, 0.99, 1e-3)
    assert FedDynServer() == FedDynServer(0.1)


def test_yogis_v_is_never_negative_and_forgets_more_slowly_than_adams():
    yogi, adam = FedYogi(beta2=0.5), FedAdam(beta2=0.5)
    theta, big, small = torch.zeros(1), torch.ones(1), torch.full((1,), 1e-3)
    after = []
    for optimizer in (yogi, adam):
        moments = optimizer.init(1)
        for update in (big, small, small, small):
            _, moments = optimizer.step(theta, update, moments)
        after.append(float(moments[1]))
    assert 0 < after[1] < after[0]
    _, moments = play(yogi)
    assert bool((moments[1] >= 0).all())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_fedavg_with_momentum(momentum):
    x, m = np.linspace(-1, 1, NUMEL), np.zeros(NUMEL)
    seen, _ = play(ServerSGD(0.5, momentum))
    for mine, update in zip(seen, updates().astype(np.float64), strict=True):
        m = momentum * m + update
        x = x - 0.5 * m
        np.testing.assert_allclose(mine, x, rtol=0, atol=2e-6)


def test_nesterovs_momentum_is_that_of_torch():
    theirs = torch.nn.Parameter(torch.linspace(-1, 1, NUMEL))
    sgd = torch.optim.SGD([theirs], lr=0.7, momentum=0.9, nesterov=True)
    seen, _ = play(ServerSGD(0.7, 0.9, nesterov=True))
    for mine, update in zip(seen, updates(), strict=True):
        theirs.grad = torch.from_numpy(update)
        sgd.step()
        np.testing.assert_allclose(mine, theirs.detach().numpy(), rtol=0, atol=2e-6)


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(LocalError, match="nesterov=True needs a momentum above 0"):
        ServerSGD(nesterov=True)


def test_dyn_is_the_box_client_by_client():
    """Acar et al. 2021, Algorithm 1, server part: clients' weights as they are, m clients, P of them sampled."""
    alpha, m = 0.3, 5
    draw = np.random.default_rng(1)
    w, h = draw.standard_normal(NUMEL), np.zeros(NUMEL)
    optimizer = FedDynServer(alpha)
    theta, moments = torch.tensor(w, dtype=torch.float32), optimizer.init(NUMEL)
    for sampled in ((0, 1, 2, 3, 4), (1, 3), (0,), (2, 3, 4)):
        ends = {k: w + 0.1 * draw.standard_normal(NUMEL) for k in sampled}
        update = torch.tensor(np.mean([w - ends[k] for k in sampled], axis=0), dtype=torch.float32)
        h = h - alpha / m * sum(ends[k] - w for k in sampled)
        w = sum(ends[k] for k in sampled) / len(sampled) - h / alpha
        theta, moments = optimizer.step(theta, update, moments, share=len(sampled) / m)
        np.testing.assert_allclose(theta.numpy(), w, rtol=0, atol=1e-6)
        np.testing.assert_allclose(moments[0].numpy(), h, rtol=0, atol=1e-6)


@pytest.mark.parametrize("optimizer", ALL, ids=repr)
def test_a_step_changes_no_argument_and_gives_the_same_bits_again(optimizer):
    theta, update = torch.linspace(-1, 1, NUMEL), torch.from_numpy(updates()[0])
    moments = optimizer.init(NUMEL)
    before = [x.clone() for x in (theta, update, *moments)]
    once, twice = (optimizer.step(theta, update, moments, share=0.5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(before, (theta, update, *moments), strict=True))
    for a, b in zip((once[0], *once[1]), (twice[0], *twice[1]), strict=True):
        assert torch.equal(a, b) and a.dtype == torch.float32 and a.shape == (NUMEL,)
    assert len(once[1]) == len(moments)


@pytest.mark.parametrize("optimizer", ALL, ids=repr)
def test_share_matters_to_a_half_only_and_is_1_by_default(optimizer):
    theta, update, moments = torch.zeros(NUMEL), torch.from_numpy(updates()[0]), optimizer.init(NUMEL)
    some = optimizer.step(theta, update, moments, share=0.25)[0]
    everybody = optimizer.step(theta, update, moments)[0]
    assert torch.equal(everybody, optimizer.step(theta, update, moments, share=1.0)[0])
    assert torch.equal(some, everybody) != optimizer.needs_objective


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        *[(kind, {name: value}) for kind in (FedAdam, FedYogi) for name in ("lr", "tau") for value in (0.0, -1.0)],
        *[(kind, {name: value}) for kind in (FedAdam, FedYogi) for name in ("beta1", "beta2") for value in (-0.1, 1.0)],
        (FedYogi, {"lr": float("nan")}),
        (ServerSGD, {"lr": 0.0}),
        (ServerSGD, {"momentum": 1.0}),
        *[(kind, {"lr": value}) for kind in (ServerSGD, FedAdam, FedYogi) for value in (1e39, 1e-50)],
        *[(kind, {"tau": value}) for kind in (FedAdam, FedYogi) for value in (1e20, 1e-50)],
        *[(FedDynServer, {"alpha": value}) for value in (1e39, 1e-50)],
        *[(FedDynServer, {"alpha": value}) for value in (0.0, -0.1, float("nan"), float("inf"))],
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused_in_a_sentence(kind, wrong):
    with pytest.raises(LocalError, match=rf"^{kind.__name__}: .* must be .*; got "):
        kind(**wrong)
