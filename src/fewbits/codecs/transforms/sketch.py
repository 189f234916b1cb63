"""Sketch: the linear map from a vector to a count sketch, and the ways back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fewbits import kernels
from fewbits.checks import check_whole
from fewbits.errors import LocalError
from fewbits.rng import Key

MOST_ROWS = 64  # the median is over so many estimates at most


@dataclass(frozen=True)
class Sketch:
    """S of a count sketch (Charikar, Chen, Farach-Colton 2002): rows x columns sums of entries with random signs.

    In every row each entry has a column and a sign, hashed from the key: the same for everybody who has it, and nothing
    is stored. S is linear. Each row gives an unbiased estimate of every entry, sign * table[row, column], that errs by
    the others in that column: variance (|x|^2 - x_i^2) / columns. The table is the sum times `factor`, a power of two
    that makes a table's entries about as large as the vector's. A vector of no more than rows * columns entries is its
    own table.

    >>> sketch = Sketch(numel=1000, rows=5, columns=40, key=Key(7))
    >>> sketch.of(torch.ones(1000)).shape
    torch.Size([200])
    """

    numel: int  # D, entries of a vector
    rows: int  # estimates of each entry, 1..64; more: outliers are rarer
    columns: int  # more: each estimate varies less
    key: Key  # where columns and signs come from

    def __post_init__(self) -> None:
        check("Sketch", self.rows, self.columns)
        check_whole("Sketch: numel", self.numel, 0)

    @property
    def whole(self) -> bool:
        """Whether the vector is its own table."""
        return self.numel <= self.rows * self.columns

    @property
    def numbers(self) -> int:
        """Entries of a table."""
        return self.numel if self.whole else self.rows * self.columns

    @property
    def factor(self) -> float:
        """2^-e, e the least with 2^e >= sqrt(D / columns); exact, so it changes no digit."""
        e = 0
        while 4**e * self.columns < self.numel:
            e += 1
        return 1.0 if self.whole else 2.0**-e

    def of(self, x: Tensor) -> Tensor:
        """S x, in float32, or float64 for float64.  # (numel,) -> (numbers,)"""
        x = _flat(x, self.numel, "Sketch.of")
        if self.whole:
            return x.clone()
        return self._rounded(kernels.count_sketch.sketch(x.numpy(), self._words(), self.columns), x.dtype)

    def of_sparse(self, support: Tensor, values: Tensor) -> Tensor:
        """S of the vector with these values, zero elsewhere; O(k rows).  # (k,) int64, (k,) -> (numbers,)

        Raises LocalError on a place outside the vector, or when there is not one value per place.
        """
        values = _flat(values, len(support), "Sketch.of_sparse")
        if len(support) and not 0 <= int(support.min()) <= int(support.max()) < self.numel:
            raise LocalError(f"Sketch: places must be in 0..{self.numel - 1}; got {support.min()}..{support.max()}")
        if self.whole:
            return torch.zeros(self.numel, dtype=values.dtype).index_add_(0, support, values)
        table = kernels.count_sketch.sketch_sparse(support.numpy(), values.numpy(), self._words(), self.columns)
        return self._rounded(table, values.dtype)

    def median(self, table: Tensor) -> Tensor:
        """Every entry as the median of its estimates; within the type's range.  # (numbers,) -> (numel,)"""
        return self._back(table, "median")

    def mean(self, table: Tensor) -> Tensor:
        """Every entry as the mean of its estimates: S^T over rows * factor, linear.  # (numbers,) -> (numel,)"""
        return self._back(table, "mean")

    def _words(self) -> np.ndarray:
        return np.array([self.key.fold("row", row).word() for row in range(self.rows)], np.uint64)

    def _rounded(self, table: np.ndarray, dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(table.reshape(-1)).mul_(self.factor).to(dtype)

    def _back(self, table: Tensor, name: str) -> Tensor:
        table = _flat(table, self.numbers, f"Sketch.{name}")
        if not bool(torch.isfinite(table).all()):  # a median or a cut would hide it; the link refuses NaN
            return torch.full((self.numel,), torch.nan, dtype=table.dtype)
        if self.whole:
            return table.clone()
        loop = kernels.count_sketch.median if name == "median" else kernels.count_sketch.mean
        x = torch.from_numpy(loop(table.numpy().reshape(self.rows, self.columns), self._words(), self.numel))
        largest = torch.finfo(x.dtype).max
        return x.div_(self.factor).clamp_(-largest, largest)


def check(owner: str, rows: object, columns: object) -> None:
    """Raise LocalError unless a table may have these sizes."""
    check_whole(f"{owner}: rows", rows, 1, MOST_ROWS)
    check_whole(f"{owner}: columns", columns, 1, 2**31 - 1)


def _flat(x: Tensor, n: int, owner: str) -> Tensor:
    if x.shape != (n,) or not x.dtype.is_floating_point:
        raise LocalError(f"{owner}: expected a float vector of {n} entries; got {x.dtype} of shape {tuple(x.shape)}")
    return x.detach().cpu().to(torch.float64 if x.dtype == torch.float64 else torch.float32).contiguous()
