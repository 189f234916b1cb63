"""Differential privacy: a client's update is clipped and made noisy before anything encodes it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from fewbits import kernels
from fewbits.checks import check_number, check_whole
from fewbits.errors import LocalError
from fewbits.rng import Key

# A draw of Key.normal is one of 2^32 multiples of 2^-16: of its tail beyond 4.4, with 5e-6 of the mass, most multiples
# are missing, and which ones would tell what was added. The mean of four, times two, has no such holes.
DRAWS = 4
FRACTION = 2.0**16 * math.sqrt(DRAWS)  # multiples of 1 / FRACTION
LARGEST = 6.4 * math.sqrt(DRAWS)  # at most this in size
BELOW_ONE = 1 - 2.0**-40  # keeps a clipped norm within C, whatever rounding does
# Renyi orders: Opacus's own, and some closer to 1 (little noise) and larger ones (much noise)
ORDERS = [1.01, 1.02, 1.05, *(1 + k / 10 for k in range(1, 100)), *range(12, 64), 64, 80, 96, 128, 192, 256, 384, 512]


@dataclass(frozen=True)
class GaussianMechanism:
    """x -> x * min(1, C/|x|) + N(0, (sigma C)^2 I), with C = clip and sigma = noise_multiplier (Dwork and Roth 2014).

    Adding or removing one client moves a sum of clipped updates by at most C, so noise of sigma*C in the sum makes it
    (epsilon, delta)-private by `epsilon`. Every client's own noise makes each message so by itself (local privacy);
    `share` divides one sum's noise among clients whose messages only ever appear as a sum.

    Difference: everything is an integer multiple of sigma*C * 2^-17, the clipped update rounded towards zero to it, so
    that the low bits of the result tell nothing of x (Mironov 2012). Noise has no entry beyond 12.8 sigma*C.
    """

    clip: float  # C, largest 2-norm of an update; smaller: less noise in all, more of the update cut off
    noise_multiplier: float  # sigma, noise per entry over C; larger: more private, slower

    def __post_init__(self) -> None:
        check_number("GaussianMechanism: clip", self.clip, "[1e-20, 1e20]")
        check_number("GaussianMechanism: noise_multiplier", self.noise_multiplier, "[1e-6, 1e6]")

    @property
    def largest(self) -> float:
        """No entry of a result is larger: a `ModularEncoding`'s clip."""
        return self.clip * (1 + LARGEST * self.noise_multiplier)

    def share(self, clients: int) -> GaussianMechanism:
        """Each one's part when the messages of `clients` clients are only seen summed: sigma / sqrt(clients).

        Take the fewest that may arrive: the noise of those that do not is missing from the sum.
        """
        check_whole("GaussianMechanism.share: clients", clients, 1)
        return replace(self, noise_multiplier=self.noise_multiplier / math.sqrt(clients))

    def apply(self, x: Tensor, key: Key) -> Tensor:
        """Clipped and noisy, of the same shape and dtype; everything that will leave the client must be in x.

        `key` must be secret, and another one for each x: who knows it takes the noise off, and two updates under one
        key differ by no noise at all. Computed in float32 range; LocalError for values that are not finite.
        """
        values = x.detach().reshape(-1).cpu().to(torch.float32).numpy()
        norm = math.sqrt(kernels.dots.products(values, values)[0])
        if not math.isfinite(norm):
            raise LocalError(f"GaussianMechanism: expected finite values; got an update of norm {norm}")
        unit = self.clip * self.noise_multiplier / FRACTION
        shrink = min(1.0, self.clip * BELOW_ONE / norm) if norm else 1.0
        levels = torch.from_numpy(values).to(torch.float64).mul_(shrink).div_(unit).trunc_()
        for draw in range(DRAWS):
            levels += torch.from_numpy(key.fold("gaussian", draw).normal(len(values))).mul_(2.0**16)
        return levels.mul_(unit).to(x.dtype).reshape(x.shape).to(x.device)


def epsilon(delta: float, noise_multiplier: float, sampling_rate: float, rounds: int) -> float:
    """An epsilon for which `rounds` rounds are (epsilon, delta)-private, by Opacus's Renyi accountant.

    Each round every client takes part with probability `sampling_rate`, by itself (Poisson sampling; 1: always), and
    noise of `noise_multiplier` * C is in the sum (Mironov, Talwar and Zhang 2019). Neighbours differ by one client.
    LocalError when an argument is out of range, or Opacus (`pip install 'fewbits[dp]'`) is missing.
    """
    check_number("epsilon: delta", delta, "(0, 1)", numpy=True)
    check_number("epsilon: noise_multiplier", noise_multiplier, "[0.01, 1e6]", numpy=True)
    check_number("epsilon: sampling_rate", sampling_rate, "(0, 1]", numpy=True)
    check_whole("epsilon: rounds", rounds, 0)
    return epsilon_of(delta, {(noise_multiplier, sampling_rate): rounds})


def epsilon_of(delta: float, spent: Mapping[tuple[float, float], int]) -> float:
    """The same for rounds of several kinds: how many there were of each (noise_multiplier, sampling_rate)."""
    rdp = _rdp()
    costs = [times * _cost(*kind) for kind, times in spent.items() if times]
    if not costs:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the best order is the first or last: the bound holds all the same
        found, _ = rdp.get_privacy_spent(orders=ORDERS, rdp=np.sum(costs, axis=0), delta=delta)
    return max(0.0, float(found))


@cache
def _cost(noise_multiplier: float, sampling_rate: float) -> np.ndarray:
    """Renyi divergence of one round, by order; 50 ms where clients are sampled.  # (len(ORDERS),)"""
    rdp = _rdp().compute_rdp(q=sampling_rate, noise_multiplier=noise_multiplier, steps=1, orders=ORDERS)
    return np.asarray(rdp, np.float64)


def _rdp() -> ModuleType:
    try:
        from opacus.accountants.analysis import rdp
    except ImportError:
        raise LocalError("epsilon needs Opacus's privacy accountant: pip install 'fewbits[dp]'") from None
    return rdp
