"""Independent normal entries: the textbook basis, for small tests; it costs D d draws each time it is used."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fewbits import kernels
from fewbits.rng import Key

ROWS = 4096  # numbers drawn at a time, or one row if that is longer


class Gaussian:
    """A[i, j] normal with variance 1/D, drawn again in stretches of rows whenever it is needed."""

    nbytes = 0

    def __init__(self, numel: int, dim: int, key: Key) -> None:
        self.numel, self.dim, self.key = numel, dim, key
        self.factor = 1 / math.sqrt(numel)

    def _rows(self) -> Iterator[tuple[slice, np.ndarray]]:
        step = max(1, ROWS // self.dim)
        for start in range(0, self.numel, step):
            stop = min(start + step, self.numel)
            drawn = self.key.fold("rows", start).normal((stop - start) * self.dim)
            yield slice(start, stop), drawn.reshape(stop - start, self.dim)

    def expand(self, s: Tensor) -> Tensor:
        """A s.  # (dim,) -> (numel,)"""
        scaled = (s.cpu() * self.factor).numpy()
        parts = [kernels.sketch.rows_times(rows, scaled) for _, rows in self._rows()]
        return torch.from_numpy(np.concatenate(parts)).to(s.device)

    def project(self, x: Tensor) -> Tensor:
        """A^T x.  # (numel,) -> (dim,)"""
        scaled = (x.cpu() * self.factor).numpy()
        out = np.zeros(self.dim, scaled.dtype)
        for where, rows in self._rows():
            kernels.sketch.times_rows(scaled[where], rows, out)
        return torch.from_numpy(out).to(x.device)
