"""Updates: the vectors of one round's clients, as they were sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

NUMBERS = 1 << 22  # of a block that is worked on at a time

Column = Callable[[Tensor, Tensor | None], Tensor]


class Row(NamedTuple):
    """One client's vector: `values` at the positions `support`, which it sent, and nothing elsewhere."""

    values: Tensor  # (m,) float32
    support: Tensor | None = None  # (m,) ascending positions; None: all of them


class Updates:
    """A matrix with a row per client, of which only what was sent is in memory.

    Args:
        rows: the clients' vectors, in the clients' order.
        size: length of a vector.

    Example:
        >>> updates = Updates([Row(torch.ones(3)), Row(torch.tensor([5.0]), torch.tensor([1]))], size=3)
        >>> updates.gram().tolist(), updates.mixed([0.5, 0.5]).tolist()
        ([[3.0, 5.0], [5.0, 25.0]], [0.5, 3.0, 0.5])
    """

    def __init__(self, rows: list[Row], size: int) -> None:
        self.rows, self.size = rows, size

    @property
    def sparse(self) -> bool:
        """Whether a client sent a part of its vector only."""
        return any(row.support is not None for row in self.rows)

    def blocks(self) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """(where, values, which of them were sent or None for all), some columns at a time.  # (n, c) each"""
        width = max(1, NUMBERS // max(1, len(self.rows)))
        for start in range(0, self.size, width):
            where = slice(start, min(start + width, self.size))
            yield where, *self._block(where)

    def _block(self, where: slice) -> tuple[Tensor, Tensor | None]:
        shape = len(self.rows), where.stop - where.start
        values = torch.zeros(shape)
        sent = torch.zeros(shape, dtype=torch.bool) if self.sparse else None
        for k, row in enumerate(self.rows):
            _fill(values[k], None if sent is None else sent[k], row, where)
        return values, sent

    def shortened(self) -> Updates:
        """Rows that are longer than the median row, scaled down to its 2-norm."""
        norms = [float(row.values.to(torch.float64).square().sum().sqrt()) for row in self.rows]
        median = sorted(norms)[len(norms) // 2]
        scales = [median / norm if norm > median else 1.0 for norm in norms]
        rows = [Row(r.values if s == 1 else r.values * s, r.support) for r, s in zip(self.rows, scales, strict=True)]
        return Updates(rows, self.size)

    def gram(self) -> Tensor:
        """The inner products of all pairs of rows, in float64.  # (n, n)"""
        total = torch.zeros(len(self.rows), len(self.rows), dtype=torch.float64)
        for _, values, _ in self.blocks():
            wide = values.to(torch.float64)
            total += wide @ wide.T
        return total

    def mixed(self, weights: list[float]) -> Tensor:
        """The sum of weight times row.  # (size,)"""
        total = torch.zeros(self.size)
        for weight, row in zip(weights, self.rows, strict=True):
            if weight and row.support is None:
                total.add_(row.values, alpha=weight)
            elif weight and row.support is not None:
                total.index_add_(0, row.support, row.values, alpha=weight)
        return total

    def by_column(self, rule: Column) -> Tensor:
        """What `rule` makes of each column: rule((n, c), sent) -> (c,).  # (size,)"""
        total = torch.empty(self.size)
        for where, values, sent in self.blocks():
            total[where] = rule(values, sent)
        return total


def _fill(values: Tensor, sent: Tensor | None, row: Row, where: slice) -> None:
    """The part of a row that lies in `where`.  # (c,) each"""
    if row.support is None:
        values.copy_(row.values[where])
        if sent is not None:
            sent.fill_(True)
        return
    first, last = torch.searchsorted(row.support, torch.tensor([where.start, where.stop])).tolist()
    at = row.support[first:last] - where.start
    values[at] = row.values[first:last]
    if sent is not None:
        sent[at] = True
