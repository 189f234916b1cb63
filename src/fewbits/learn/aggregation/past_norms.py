"""PastNorms: the usual norm of the last rounds, which a NormBound compares with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median_high

import torch
from torch import Tensor

from fewbits.learn.aggregation.norm_bound import NormBound

FEWEST = 3  # norms that have a median worth the name
Middle = Callable[[Sequence[float]], float]


class PastNorms:
    """The median norm of each of the last `bound.rounds` rounds, and the norms of the round that is on."""

    def __init__(self, bound: NormBound, middle: Middle = median_high) -> None:
        """`middle`: which of two middle values is the median."""
        self.bound, self._middle = bound, middle
        self.past: list[tuple[float, int]] = []  # (median, how many) of each round
        self.round: list[float] = []  # norms of this round, all that were received

    def enter(self, found: float, zero: bool = False) -> None:
        """Count a norm of this round; zero counts where `zero` says that it is a length, too."""
        if found > 0 or zero:
            self.round.append(found)

    @property
    def enough(self) -> bool:
        """Whether the past rounds, or this one, had so many norms that there is a median."""
        return len(self.round) >= FEWEST or self._enough

    @property
    def _enough(self) -> bool:
        return sum(count for _, count in self.past) >= FEWEST

    @property
    def usual(self) -> float:
        """The median of the rounds' medians; 0 when too few norms were seen."""
        return self._middle([found for found, _ in self.past]) if self._enough else 0.0

    def close(self) -> None:
        """End the round."""
        if self.round:
            self.past.append((self._middle(self.round), len(self.round)))
            del self.past[: -self.bound.rounds]
            self.round.clear()


def is_entry(found: float, count: float) -> bool:
    """Whether these, of a checkpoint, can be a median and of how many norms.

    >>> is_entry(0.5, 3.0), is_entry(0.5, 3.5), is_entry(float("inf"), 3.0)
    (True, False, False)
    """
    return 0 <= found < math.inf and 1 <= count < 2**53 and count == int(count)


def table(past: Sequence[tuple[float, int]]) -> Tensor:
    """The past for a checkpoint.  # (m, 2), float64"""
    return torch.tensor(past, dtype=torch.float64).reshape(-1, 2)
