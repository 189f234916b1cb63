"""The size of a factored weight, and the rank that belongs to a gamma."""

from __future__ import annotations

import math
from dataclasses import dataclass

FORMS = ("fedpara", "pfedpara", "lowrank")


@dataclass(frozen=True)
class Grid:
    """The shape of a weight for factoring: `rows` x `columns` x `taps`.

    Linear layers and reshaped kernels have one tap (Proposition 1); a kernel in Tucker form has its k*k taps
    (Proposition 3).
    """

    rows: int  # O: outputs
    columns: int  # I: inputs (per group)
    taps: int = 1  # kernel positions; 1: no core tensor
    tucker: bool = False  # W = T x1 X x2 Y instead of W = X Y^T

    @property
    def numel(self) -> int:
        """Count the numbers of the dense weight."""
        return self.rows * self.columns * self.taps

    @property
    def full_rank(self) -> int:
        """Largest possible rank of the rows x (columns*taps) unfolding."""
        return min(self.rows, self.columns * self.taps)

    def half(self, row_rank: int, column_rank: int) -> int:
        """Count the numbers of one half: X (rows, row_rank), Y (columns, column_rank) and the core, if any."""
        core = row_rank * column_rank * self.taps if self.tucker else 0
        return self.rows * row_rank + self.columns * column_rank + core


def bounds(grid: Grid) -> tuple[int, int]:
    """Return (r_min, r_max): the smallest R whose square is full rank, the largest R that saves numbers.

    ``r_min = min(ceil(sqrt rows), ceil(sqrt columns))``. r_max is the floor of the positive root of
    ``2R(rows + columns) + 2R^2 taps = numel``; the matrix form has no square term (Hyeon-Woo et al. 2022, section 2).
    """
    smallest = min(math.isqrt(n - 1) + 1 for n in (grid.rows, grid.columns))
    both = grid.rows + grid.columns
    if not grid.tucker:
        return smallest, grid.numel // (2 * both)
    root = math.isqrt(both * both + 2 * grid.taps * grid.numel)  # an integer root: r_max has no rounding error
    return smallest, (root - both) // (2 * grid.taps)


def rank(grid: Grid, gamma: float) -> int:
    """Return R = round((1 - gamma) r_min + gamma r_max), halves up; r_min if r_max is smaller."""
    smallest, largest = bounds(grid)
    return math.floor((1 - gamma) * smallest + gamma * max(smallest, largest) + 0.5)


def even_rank(grid: Grid, budget: int) -> tuple[int, int]:
    """Return the ranks (row, column) of one low-rank half whose size is nearest to `budget` numbers.

    Both are the same number, except that neither exceeds its side.
    """
    best = (1, 1)
    for r in range(1, max(grid.rows, grid.columns) + 1):
        pair = min(r, grid.rows), min(r, grid.columns)
        if not grid.tucker:
            pair = min(pair), min(pair)
        if abs(grid.half(*pair) - budget) < abs(grid.half(*best) - budget):
            best = pair
        if grid.half(*pair) >= budget:
            break
    return best
