"""The privacy loss of the sampled Gaussian mechanism as a distribution on a grid, composed by Fourier transforms.

Each rounding makes the loss larger, so epsilon is an upper bound. It is within 1% of the exact value where that was
compared; the Renyi bound is 5% to 80% above it.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

POINTS = 2**17  # of the grid; more: closer and slower
LEAST_HALF = 32.0  # of the window: exp(-32) of the mass is below it, in any number of rounds
MOST_HALF = 512.0  # its exponential is a double
OUTSIDE = 1e-14  # mass beyond the window that wraps round
SLACK = 3e-10  # of delta: more than that mass and the rounding errors of the transforms
LEAST_DELTA, MOST_ROUNDS = 1e-8, 100_000  # for which SLACK is small, and enough


def sampled_gaussian_epsilon(
    delta: float, noise: float, rate: float, rounds: int, orders: np.ndarray, cost: np.ndarray
) -> float:
    """Compute an upper bound of epsilon; inf where this method has none.

    Args:
        delta: in (0, 1).
        noise: sigma, in units of the sensitivity.
        rate: in (0, 1), the chance of each client in each round.
        rounds: 1 or more.
        orders: of the Renyi divergences in `cost`; they bound the window.
        cost: of all rounds together.

    References:
        Connecting the dots: Doroshenko, Ghazi, Kamath, Kumar and Manurangsi, Connect the Dots, PETS 2022. Both
        directions are needed: Zhu, Dong and Wang, Optimal Accounting of Differential Privacy, AISTATS 2022.
    """
    half = float(np.min(cost - math.log(OUTSIDE) / (orders - 1)))  # Chernoff's bound of the upper tail
    half = 2.0 ** math.ceil(math.log2(max(LEAST_HALF, half)))
    if half > MOST_HALF or delta < LEAST_DELTA or rounds > MOST_ROUNDS:
        return math.inf
    return max(_epsilon(delta - SLACK, noise, rate, rounds, half, added) for added in (False, True))


def _epsilon(delta: float, noise: float, rate: float, rounds: int, half: float, added: bool) -> float:
    transform, infinite = _transform(noise, rate, half, added)
    mass = np.fft.fftshift(np.fft.irfft(transform**rounds, POINTS))
    losses = _grid(half)
    mass, losses = mass[losses > 0], losses[losses > 0]
    beyond = -math.expm1(rounds * math.log1p(-infinite))
    above, scaled = np.cumsum(mass[::-1])[::-1], np.cumsum((mass * np.exp(-losses))[::-1])[::-1]
    # delta(epsilon) = sum over losses > epsilon of (1 - exp(epsilon - loss)) mass, at every grid point
    found = beyond + above - np.exp(losses) * scaled
    enough = np.flatnonzero(found <= delta)
    return float(losses[enough[0]]) if len(enough) else math.inf


def _grid(half: float) -> np.ndarray:
    """Losses of the grid, ascending, with 0 in the middle.  # (POINTS,)"""
    return (np.arange(POINTS) - POINTS // 2) * (2 * half / POINTS)


@lru_cache(maxsize=16)
def _transform(noise: float, rate: float, half: float, added: bool) -> tuple[np.ndarray, float]:
    """(the transform of one round's losses on the grid, the mass at infinity).

    `added`: the data have one client more in the second distribution; else in the first one.
    """
    losses = _grid(half)
    with_client, without = _bins(-losses[::-1] if added else losses, noise, rate)
    p, q = (without[::-1], with_client[::-1]) if added else (with_client, without)
    # The mass of each bin goes to its two ends so that both distributions keep it: the loss only spreads.
    ratio = np.exp(losses)
    right = np.clip((p[1:-1] - ratio[:-1] * q[1:-1]) / (ratio[1:] - ratio[:-1]), 0.0, q[1:-1])
    mass = np.zeros(POINTS)
    mass[1:] += ratio[1:] * right
    mass[:-1] += p[1:-1] - ratio[1:] * right
    mass[0] += p[0]
    return np.fft.rfft(np.fft.ifftshift(np.maximum(mass, 0.0))), float(p[-1])


def _bins(losses: np.ndarray, noise: float, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Mass between ascending losses of ((1-q) N(0) + q N(1), N(0)), below the first and above the last, too."""
    odds = (np.exp(losses) - (1 - rate)) / rate
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.where(odds > 0, noise**2 * np.log(np.maximum(odds, 0.0)) + 0.5, -np.inf)  # where the loss is that
    edges = np.concatenate([[-np.inf], x, [np.inf]])
    plain = _between(edges / noise)
    return (1 - rate) * plain + rate * _between((edges - 1) / noise), plain


def _between(edges: np.ndarray) -> np.ndarray:
    """Standard normal mass between ascending edges, exact in both tails."""
    low, high = (torch.special.ndtr(torch.from_numpy(sign * edges)).numpy() for sign in (1, -1))
    return np.where(edges[:-1] > 0, high[:-1] - high[1:], low[1:] - low[:-1])
