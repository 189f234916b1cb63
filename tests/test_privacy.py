"""The Gaussian mechanism: the norm is bounded, the noise is what it says, and the accountant's epsilon holds."""

import math
import sys

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.signal import fftconvolve
from scipy.special import comb, logsumexp
from scipy.stats import kstest, norm

from fewbits import Key, LocalError
from fewbits.codecs.modular_encoding import ModularEncoding
from fewbits.privacy import accountant
from fewbits.privacy.accountant import ORDERS, epsilon
from fewbits.privacy.mechanism import GaussianMechanism
from fewbits.rng import quantile


def update(n, norm=1.0, seed=0):
    x = torch.from_numpy(Key(seed).normal(n))
    return x * (norm / float(x.norm()))


def noise_of(mechanism, key, n):
    return mechanism.apply(torch.zeros(n), key)


def unit(mechanism):
    return mechanism.clip * mechanism.noise_multiplier * 2.0**-17


def test_the_noise_is_normal_with_deviation_sigma_times_c():
    mechanism = GaussianMechanism(clip=0.5, noise_multiplier=1.3)
    noise = noise_of(mechanism, Key(1), 50_000).numpy() / (0.5 * 1.3)
    assert kstest(noise, "norm").pvalue > 1e-3


@pytest.mark.parametrize("size", [1e-6, 0.3, 1.0, 1.7, 1e3, 1e20])
@pytest.mark.parametrize("clip", [1e-3, 1.0])
def test_what_is_in_the_noise_has_norm_at_most_c_and_the_updates_direction(size, clip):
    mechanism, x = GaussianMechanism(clip, noise_multiplier=0.01), update(1000, size * clip).double()
    with_noise, noise = mechanism.apply(x, Key(2)), noise_of(mechanism, Key(2), 1000).double()
    kept = ((with_noise - noise) / unit(mechanism)).round() * unit(mechanism)  # exact: both are multiples
    assert float(kept.norm()) <= clip
    expected = x * min(1.0, clip / float(x.norm()))
    assert float((kept - expected).abs().max()) <= 1.01 * unit(mechanism)
    assert bool((kept.abs() <= expected.abs() * (1 + 1e-6)).all())


def test_results_lie_on_one_grid_whatever_the_update_is():
    mechanism = GaussianMechanism(1.0, 0.5)
    for x in (torch.zeros(500), update(500), update(500, 0.1, seed=3), update(500, 77.0, seed=4)):
        levels = mechanism.apply(x.double(), Key(3)) / unit(mechanism)
        assert torch.equal(levels, levels.round())


def test_the_same_key_gives_the_same_noise_and_another_key_other_noise():
    mechanism, x = GaussianMechanism(1.0, 1.0), update(100)
    assert torch.equal(mechanism.apply(x, Key(1)), mechanism.apply(x, Key(1)))
    other = mechanism.apply(x, Key(1).fold("round", 2))
    assert abs(np.corrcoef(noise_of(mechanism, Key(1), 100), other)[0, 1]) < 0.4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_shape_and_type_stay_and_the_update_too(dtype):
    x = update(12).to(dtype).reshape(3, 4)
    before = x.clone()
    y = GaussianMechanism(1.0, 1.0).apply(x, Key(0))
    assert y.shape == x.shape and y.dtype == dtype and torch.equal(x, before)


def test_shares_of_a_rounds_clients_add_up_to_the_whole_noise():
    whole, clients = GaussianMechanism(1.0, 2.0), 64
    each = whole.share(clients)
    assert each.clip == 1.0 and each.noise_multiplier == 0.25
    total = sum(noise_of(each, Key(c), 5000).double() for c in range(clients))
    assert kstest(total.numpy() / 2.0, "norm").pvalue > 1e-3


def test_private_messages_go_through_a_field_unclipped():
    mechanism = GaussianMechanism(1.0, 1.0).share(3)
    noisy = [mechanism.apply(update(300, 5.0, seed=i), Key(i)) for i in range(3)]
    field = ModularEncoding(clip=mechanism.largest, clients=3, beyond="refuse")
    total = field.sum((field.encode(y, Key(9).fold(i)) for i, y in enumerate(noisy)))
    assert float((total - sum(y.double() for y in noisy)).abs().max()) <= field.bound(3)
    spikes = torch.zeros(1 << 16)
    spikes[:] = 1e30
    assert float(mechanism.apply(spikes, Key(0)).abs().max()) <= mechanism.largest


def one_draw():
    """Probability of each multiple of 2^-16 under Key.normal, by bisection over its words.  # (2 top + 1,)"""

    def level(word):
        return np.rint(quantile((word + 0.5) * 2.0**-32) * 65536.0)

    top = int(level(np.array([0]))[0])
    levels = np.arange(top + 2)
    low, high = np.zeros(top + 2, np.int64), np.full(top + 2, 2**31)
    while (low < high).any():
        middle = (low + high) // 2
        reaches = level(np.minimum(middle, 2**31 - 1)) >= levels
        reaches &= middle < 2**31
        low, high = np.where(reaches, middle + 1, low), np.where(reaches, high, middle)
    size = (low[:-1] - low[1:]) / 2.0**32
    return np.concatenate([size[:0:-1], [2 * size[0]], size[1:]])


@pytest.fixture(scope="module")
def two_draws():
    return fftconvolve(one_draw(), one_draw())  # its error is 1e-17, of terms near 1e-12


@pytest.mark.parametrize(("y", "error"), [(0, 1e-7), (3, 1e-6), (5, 1e-4), (6, 1e-3), (7, 1e-2)])
def test_every_multiple_has_its_share_of_the_noise_far_into_the_tail(two_draws, y, error):
    scale, centre = 2 * 65536, len(two_draws) // 2  # four draws, halved
    found = []
    for m in range(y * scale, y * scale + 10):
        k = np.arange(m - centre, centre + 1)
        found.append(float(two_draws[k + centre] @ two_draws[m - k + centre]) * scale / norm.pdf(m / scale))
    assert found == pytest.approx([1.0] * 10, rel=error)
    assert found == pytest.approx([found[0]] * 10, rel=1e-5)  # neighbours cannot be told apart


def test_private_updates_are_the_same_for_ever():
    y = GaussianMechanism(1.0, 0.5).apply(torch.tensor([3.0, -4.0, 0.0]), Key(1))
    assert (y.double() * 2**18).tolist() == [346349, -234774, 113507]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_an_update_that_is_not_finite_is_refused(wrong):
    with pytest.raises(LocalError, match="expected finite values"):
        GaussianMechanism(1.0, 1.0).apply(torch.tensor([0.0, wrong]), Key(0))


@pytest.mark.parametrize(
    ("clip", "noise", "name"),
    [(0.0, 1.0, "clip"), (math.inf, 1.0, "clip"), (1.0, 0.0, "noise_multiplier"), (1.0, math.nan, "noise_multiplier")],
)
def test_a_mechanism_says_what_is_wrong_with_it(clip, noise, name):
    with pytest.raises(LocalError, match=f"GaussianMechanism: {name} must be a number in"):
        GaussianMechanism(clip, noise)


def test_a_share_among_nobody_is_refused():
    with pytest.raises(LocalError, match="1 or more; got 0"):
        GaussianMechanism(1.0, 1.0).share(0)


# The accountant


def best(rdp, delta):
    """The smallest epsilon over the orders, converted as by Canonne, Kamath and Steinke 2020, proposition 12."""
    return min(r + math.log1p(-1 / a) - math.log(delta * a) / (a - 1) for a, r in rdp.items())


def exact(delta, sigma):
    """Of one round that everybody is in: Balle and Wang 2018, theorem 8."""

    def excess(eps):
        return (
            norm.cdf(1 / (2 * sigma) - eps * sigma) - math.exp(eps) * norm.cdf(-1 / (2 * sigma) - eps * sigma) - delta
        )

    return brentq(excess, 0, 100)


@pytest.fixture
def opacus():
    return pytest.importorskip("opacus")


@pytest.mark.parametrize(("sigma", "rounds"), [(0.5, 1), (1.0, 1), (4.0, 100), (30.0, 1000)])
def test_without_sampling_it_is_below_the_renyi_bound(opacus, sigma, rounds):
    rdp = {a: rounds * a / (2 * sigma**2) for a in ORDERS}
    assert 0.7 * best(rdp, 1e-5) < epsilon(1e-5, sigma, 1.0, rounds) < best(rdp, 1e-5)


@pytest.mark.parametrize(("sigma", "q", "rounds"), [(1.0, 0.01, 1000), (2.0, 0.1, 100), (0.8, 0.001, 10_000)])
def test_with_sampling_the_renyi_bound_is_the_binomial_sum_at_integer_orders(opacus, sigma, q, rounds):
    orders = [a for a in ORDERS if float(a).is_integer() and a >= 2]
    rdp = {}
    for a in orders:  # Mironov, Talwar and Zhang 2019, section 3.3
        k = np.arange(int(a) + 1)
        terms = np.log(comb(a, k)) + k * math.log(q) + (a - k) * math.log1p(-q) + (k * k - k) / (2 * sigma**2)
        rdp[a] = rounds * float(logsumexp(terms)) / (a - 1)
    found = accountant._renyi_epsilon(1e-5, rounds * accountant._cost(sigma, q))
    assert epsilon(1e-5, sigma, q, rounds) < found
    assert 0.97 * best(rdp, 1e-5) <= found <= best(rdp, 1e-5) * (1 + 1e-9)


@pytest.mark.parametrize("sigma", [0.7, 1.0, 3.0, 10.0])
def test_it_is_a_bound_and_a_close_one(opacus, sigma):
    assert exact(1e-5, sigma) <= epsilon(1e-5, sigma, 1.0, 1) <= (1 + 1e-6) * exact(1e-5, sigma)


def test_published_figures(opacus):
    # Abadi et al. 2016, section 3: 1.26 for 100 epochs at q = 0.01; conversion from Renyi orders has improved since
    assert 0.9 < epsilon(1e-5, 4.0, 0.01, 10_000) < 1.26
    # TensorFlow Privacy's MNIST tutorial: 60 epochs at batch 256 of 60,000, noise 1.1: 3.01 by the old conversion
    assert 2.3 < epsilon(1e-5, 1.1, 256 / 60_000, 60 * 234) < 3.01


@pytest.mark.parametrize(
    ("arguments", "other"),
    [
        ((1e-5, 4.0, 0.01, 10_000), 1.03549),
        ((1e-5, 1.0, 0.01, 1000), 2.10137),
        ((1e-5, 0.6, 0.01, 1000), 8.68040),
        ((1e-5, 1.0, 1.0, 10), 19.05359),
    ],
)
def test_another_library_agrees(opacus, arguments, other):
    delta, sigma, q, rounds = arguments
    found = accountant._renyi_epsilon(delta, rounds * accountant._cost(sigma, q))
    assert found == pytest.approx(other, rel=2e-3)  # dp-accounting 0.6.0, RdpAccountant
    assert 0.8 * found < epsilon(*arguments) < found


def test_more_noise_is_more_private_and_more_of_anything_else_less(opacus):
    for values in (
        [epsilon(1e-5, s, 0.02, 200) for s in (8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.1, 0.05)],
        [epsilon(1e-5, 1.0, q, 200) for q in (1e-4, 1e-3, 0.01, 0.1, 0.5, 0.99, 1.0)],
        [epsilon(1e-5, 1.0, 0.02, t) for t in (0, 1, 10, 100, 1000, 10_000)],
        [epsilon(d, 1.0, 0.02, 200) for d in (1e-2, 1e-4, 1e-6, 1e-9)],
    ):
        assert values == sorted(values) and len(set(values)) >= len(values) - 1
        assert all(math.isfinite(e) and e >= 0 for e in values)


@pytest.mark.parametrize("noise", [0.02, 1e4])
def test_far_too_little_and_far_too_much_noise_give_a_bound_without_a_warning(opacus, noise):
    assert 0 < epsilon(1e-5, noise, 0.1, 10) < 1e6


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0.0, 1.0, 0.1, 1), "delta"),
        ((1e-5, 0.0, 0.1, 1), "noise_multiplier"),
        ((1e-5, 1.0, 0.0, 1), "sampling_rate"),
        ((1e-5, 1.0, 1.1, 1), "sampling_rate"),
        ((1e-5, 1.0, 0.1, -1), "rounds"),
        ((1e-5, 1.0, 0.1, 1.5), "rounds"),
    ],
)
def test_the_accountant_says_which_argument_is_wrong(arguments, name):
    with pytest.raises(LocalError, match=f"epsilon: {name} must be"):
        epsilon(*arguments)


def test_without_opacus_there_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus.accountants.analysis", None)
    with pytest.raises(LocalError, match=r"pip install 'fewbits\[dp\]'"):
        epsilon(1e-5, 1.0, 0.1, 10)
