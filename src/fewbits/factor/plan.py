"""Plan the rank of every weight before the model changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from fewbits.errors import LocalError
from fewbits.factor.layers import Weight
from fewbits.factor.names import shared
from fewbits.factor.patterns import chosen, within
from fewbits.factor.rank import bounds, even_rank, rank

STEPS = 10_000  # gamma="auto" has this resolution, 1/STEPS

Gammas = float | tuple[tuple[str, float], ...]  # one for all, or patterns with one each


@dataclass(frozen=True)
class Planned:
    """The plan for one weight: its ranks, or the reason why it stays dense."""

    weight: Weight
    ranks: tuple[int, int] = (0, 0)  # row and column rank of each half; zeros: it stays dense
    reason: str = ""  # why it stays dense

    def numbers(self, form: str) -> int:
        """Count the numbers of the weight, or of its factors."""
        if self.reason or self.weight.grid is None:
            return self.weight.tensor.numel()
        return self.weight.grid.half(*self.ranks) * (1 if form == "lowrank" else 2)

    def travelling(self, form: str) -> int:
        """Count the numbers that travel."""
        return self.numbers(form) // (2 if form == "pfedpara" and not self.reason else 1)


def candidates(
    found: Sequence[Weight], skip: Sequence[str], only: Sequence[str], earlier: Sequence[str]
) -> list[Planned]:
    """Split weights into those to factor and those that stay dense, with the reason.

    Args:
        found: the weights of the model.
        skip: patterns of weights that stay dense.
        only: patterns of the weights to factor; empty: all.
        earlier: names of weights that are factored already; patterns may match them too.

    Raises:
        LocalError: a pattern matches no weight.
    """
    names = [*(place.name for weight in found for place in weight.places), *earlier]
    wanted = chosen(names, only, "only") if only else set(names)
    wanted -= chosen(names, skip, "skip")
    planned = []
    for weight in found:
        left_out = [place.name for place in weight.places if place.name not in wanted]
        reason = "not chosen" if left_out and len(left_out) == len(weight.places) else ""
        if left_out and not reason:
            reason = f"tied to {left_out[0]}, which was not chosen"
        planned.append(Planned(weight, reason=reason or weight.reason))
    return planned


def with_ranks(planned: Sequence[Planned], form: str, gammas: Gammas) -> list[Planned]:
    """Give every candidate its rank; a weight too small to save numbers stays dense in every form.

    Raises:
        LocalError: a pattern of gamma matches no candidate, or a candidate matches no pattern.
    """
    names = [p.weight.name for p in planned if not p.reason]
    if not isinstance(gammas, float | int):
        chosen(names, [pattern for pattern, _ in gammas], "gamma")
    return [p if p.reason else _ranked(p.weight, form, _gamma(p.weight.name, gammas)) for p in planned]


def _gamma(name: str, gammas: Gammas) -> float:
    if isinstance(gammas, float | int):
        return gammas
    for pattern, gamma in gammas:
        if within(name, pattern):
            return gamma
    raise LocalError(f"gamma: no pattern matches {name}; there are {', '.join(repr(p) for p, _ in gammas)}")


def _ranked(weight: Weight, form: str, gamma: float) -> Planned:
    grid = weight.grid
    assert grid is not None
    smallest = bounds(grid)[0]
    needed = 2 * grid.half(smallest, smallest)
    if needed >= grid.numel:
        return Planned(weight, reason=f"too small to gain: {needed:,} numbers in factors of rank {smallest}")
    r = rank(grid, gamma)
    return Planned(weight, even_rank(grid, 2 * grid.half(r, r)) if form == "lowrank" else (r, r))


def travelling_bytes(model: nn.Module, planned: Sequence[Planned], form: str, stays: set[str]) -> int:
    """Count the float32 bytes that the factored model sends: dense layers, biases and float buffers included."""
    sizes = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    total = sum(sizes[name].numel() for name in shared(model) if name not in stays)
    for p in planned:
        if not p.reason and p.weight.name not in stays:
            total += p.travelling(form) - p.weight.tensor.numel()
    return 4 * total


def largest_gamma(model: nn.Module, planned: Sequence[Planned], form: str, stays: set[str], budget: int) -> float:
    """Find the largest single gamma, a multiple of 1/10000, whose model sends at most `budget` bytes.

    Raises:
        LocalError: gamma 0 sends more; the text gives both numbers.
    """

    def sent(step: int) -> int:
        return travelling_bytes(model, with_ranks(planned, form, step / STEPS), form, stays)

    if sent(0) > budget:
        raise LocalError(f"gamma='auto': even gamma 0 sends {sent(0):,} bytes; budget_bytes is {budget:,}")
    low, high = 0, STEPS + 1  # bisection: the bytes grow with gamma; low fits, high does not or is out of range
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if sent(middle) <= budget else (low, middle)
    return low / STEPS
