"""The accountant: an epsilon that is true for all rounds of a run, for neighbours that it names."""

from __future__ import annotations

import math
import warnings
from functools import cache
from types import ModuleType

import numpy as np
import torch

from fewbits.checks import check_number, check_whole
from fewbits.errors import LocalError
from fewbits.privacy.loss_distribution import sampled_gaussian_epsilon

# Renyi orders of Opacus, with some closer to 1 (little noise) and larger ones (much noise)
ORDERS = [1.01, 1.02, 1.05, *(1 + k / 10 for k in range(1, 100)), *range(12, 64), 64, 80, 96, 128, 192, 256, 384, 512]
ROUNDING = 1 + 1e-9  # relative: more than the closed form's rounding errors


def epsilon(delta: float, noise_multiplier: float, sampling_rate: float, rounds: int) -> float:
    """Compute a central epsilon for which all rounds together are (epsilon, delta)-private.

    In each round every client takes part independently with probability `sampling_rate` (Poisson sampling), and the
    sum has noise of ``noise_multiplier * C``. Neighbouring data sets are those with and without one client, so the sum
    moves by at most C. It holds against those who see the models, and neither single messages nor who was drawn.

    Args:
        delta: in (0, 1).
        noise_multiplier: sigma, the noise of the sum in units of C.
        sampling_rate: in (0, 1]; 1: every client in every round.
        rounds: number of rounds.

    Returns:
        An upper bound of epsilon, mostly within 1%; within 20% or more for delta below 1e-8, and for large epsilon.

    Raises:
        LocalError: an argument is out of range, or clients are sampled and Opacus (`pip install 'fewbits[dp]'`) is
            missing.

    Example:
        >>> round(epsilon(1e-5, noise_multiplier=1.0, sampling_rate=0.01, rounds=1000), 2)
        1.83

    References:
        The smaller of two bounds: the privacy loss on a grid (`loss_distribution`), and the Renyi accountant of Opacus:
        Mironov, Talwar and Zhang, Renyi Differential Privacy of the Sampled Gaussian Mechanism, 2019, with more orders.
        Without sampling: Balle and Wang 2018, theorem 8.
    """
    check_number("epsilon: delta", delta, "(0, 1)", numpy=True)
    check_number("epsilon: noise_multiplier", noise_multiplier, "[0.01, 1e6]", numpy=True)
    check_number("epsilon: sampling_rate", sampling_rate, "(0, 1]", numpy=True)
    check_whole("epsilon: rounds", rounds, 0)
    exact = gaussian_epsilon(delta, math.sqrt(rounds) / noise_multiplier)  # without sampling; sampling only helps
    if sampling_rate == 1 or not rounds:
        return exact
    noise, rate = float(noise_multiplier), float(sampling_rate)
    cost = rounds * _cost(noise, rate)
    closer = sampled_gaussian_epsilon(delta, noise, rate, rounds, np.asarray(ORDERS), cost)
    return min(exact, _renyi_epsilon(delta, cost), closer)


def local_epsilon(delta: float, noise_multiplier: float, messages: int) -> float:
    """Compute the local epsilon of all messages of one client, against everybody who sees them, also the server.

    Every message has noise of ``noise_multiplier * C``. Neighbouring data sets differ in one client, whose data are
    replaced by any others. So a message moves by at most 2C.

    Args:
        delta: in (0, 1).
        noise_multiplier: sigma, the noise of each message in units of C.
        messages: number of messages of the client.

    Returns:
        The exact epsilon, rounded up.

    Raises:
        LocalError: an argument is out of range.

    Example:
        >>> round(local_epsilon(1e-5, noise_multiplier=8.0, messages=10), 1)
        3.3

    References:
        Balle and Wang, Improving the Gaussian Mechanism, ICML 2018, theorem 8; for several messages Dong, Roth and Su,
        Gaussian Differential Privacy, 2022, corollary 3.3.
    """
    check_number("local_epsilon: delta", delta, "(0, 1)", numpy=True)
    check_number("local_epsilon: noise_multiplier", noise_multiplier, "[0.01, 1e6]", numpy=True)
    check_whole("local_epsilon: messages", messages, 0)
    return gaussian_epsilon(delta, 2 * math.sqrt(messages) / noise_multiplier)


def gaussian_epsilon(delta: float, mu: float) -> float:
    """Compute epsilon of Gaussian mechanisms without sampling, rounded up.

    ``delta = Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu)``, solved for epsilon.

    Args:
        delta: in (0, 1).
        mu: the square root of the sum of (sensitivity / noise)^2 over all releases.

    Example:
        >>> round(gaussian_epsilon(1e-5, 1.0), 2)
        4.38
    """
    if mu == 0 or _log_delta(0.0, mu) <= math.log(delta):
        return 0.0
    low, high = 0.0, mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))  # enough, by the Gaussian's tail
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _log_delta(middle, mu) > math.log(delta) else (low, middle)
    return high * ROUNDING


def _log_delta(epsilon: float, mu: float) -> float:
    """Log of the delta that goes with an epsilon; -inf where doubles cannot tell it from 0."""
    upper, lower = torch.special.log_ndtr(
        torch.tensor([mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu], dtype=torch.float64)
    ).tolist()
    ratio = epsilon + lower - upper
    return upper + math.log1p(-math.exp(ratio)) if ratio < 0 else -math.inf


def check_accountant() -> None:
    """Raise LocalError when Opacus is missing."""
    _rdp()


def _renyi_epsilon(delta: float, cost: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a best order at the edge of ORDERS: the bound still holds
        found, _ = _rdp().get_privacy_spent(orders=ORDERS, rdp=cost, delta=delta)
    return max(0.0, float(found))


@cache
def _cost(noise_multiplier: float, sampling_rate: float) -> np.ndarray:
    """Compute the Renyi divergence of one round by order; 50 ms.  # (len(ORDERS),)"""
    rdp = _rdp().compute_rdp(q=sampling_rate, noise_multiplier=noise_multiplier, steps=1, orders=ORDERS)
    return np.asarray(rdp, np.float64)


def _rdp() -> ModuleType:
    try:
        from opacus.accountants.analysis import rdp
    except ImportError:
        raise LocalError("epsilon needs Opacus's privacy accountant: pip install 'fewbits[dp]'") from None
    return rdp
