"""First values of the factors: normal draws, scaled to the variance that the composed weight should have."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fewbits.factor.factors import Factors, compose
from fewbits.rng import Key

INITS = ("matched", "replaced", "fan_in", "fan_out")
PACE = 0.25  # speed of the private half of pFedPara; at 1 small networks diverge at usual learning rates
NEAR = 1e-4  # relative error of the root mean square of W at which the search under tanh stops


@torch.no_grad()
def draw(factors: Factors, variance: float, init: str, padding: int | None, key: Key) -> None:
    """Fill the factors with normal draws.

    "matched" and "replaced" give ``mean(W^2) = variance`` for this very draw, because small ranks scatter widely. The
    factors of one half share one variance. For FedPara it is near ``(sqrt(v)/R^2)^(1/3)`` with a core and near
    ``sqrt(sqrt(v)/R)`` without (our derivation). "fan_in" and "fan_out" apply He's rule to each factor, stored as in
    the official code (R rows). W then has far too small or too large a variance; they are there for comparison.

    The private half of pFedPara starts at zero, ``X2 = 0``, so that ``W = W1``. A step on X2 moves W by
    ``W1^2 G (right^T right)``, where right is the rest of the half. ``E[W1^2] R mean(right^2) = PACE`` makes that a
    fixed share of a step on a dense weight, in R directions. With merely small factors W hardly moves
    (papers/pfedpara).

    Args:
        factors: the factors to fill, in place.
        variance: mean square that the composed weight should have.
        init: one of `INITS`.
        padding: row of an embedding that stays zero: its row of X1 is zero, and so is every gradient of it.
        key: the key of the draws.
    """
    if factors.X1.is_meta:
        return
    generator = key.generator()
    for name, factor in factors.named_parameters():
        drawn = torch.randn(factor.shape, generator=generator)
        factor.copy_(drawn * (_he(factors, name, init) if init.startswith("fan") else 1.0))
    if padding is not None:
        factors.X1[padding] = 0
    if init.startswith("fan"):
        return
    if factors.form == "pfedpara":
        _begin_at_the_shared_half(factors, variance)
    elif factors.halves == 2:
        _scale(factors, 2, variance**0.25)
    for _ in range(50 if factors.tanh else 1):  # under tanh the scale is not linear, so it is searched
        whole = compose(factors.form, [factors.parts(half + 1) for half in range(factors.halves)], factors.tanh)
        missing = math.sqrt(variance) / _rms(whole)
        _multiply(factors, 1, missing)
        if abs(missing - 1) < NEAR:
            break


def _begin_at_the_shared_half(factors: Factors, variance: float) -> None:
    x, *rest = factors.parts(2)
    x.zero_()
    unit = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    missing = math.sqrt(PACE / (x.shape[1] * variance)) / _rms(compose("lowrank", [(unit, *rest)]))
    for part in rest:
        part.mul_(missing ** (1 / len(rest)))


def _scale(factors: Factors, half: int, deviation: float) -> None:
    """Scale one half to a root mean square."""
    _multiply(factors, half, deviation / _rms(compose("lowrank", [factors.parts(half)])))


def _multiply(factors: Factors, half: int, by: float) -> None:
    """Multiply one half by a number, spread equally over its factors."""
    parts = factors.parts(half)
    for part in parts:
        part.mul_(by ** (1 / len(parts)))


def _rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item()


def _he(factors: Factors, name: str, init: str) -> float:
    """Return sqrt(2/fan) of a factor in the official layout: X (R, rows), Y (R, columns), T (R, R, *taps)."""
    factor = factors.get_parameter(name)
    if factor.dim() > 2:
        fan = math.prod(factor.shape) // factor.shape[0 if init == "fan_in" else 1]
    else:
        fan = factor.shape[0 if init == "fan_in" else 1]
    return math.sqrt(2 / fan)
