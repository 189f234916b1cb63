"""One signed entry per row: every parameter follows one coordinate."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from fewbits import kernels
from fewbits.codecs.transforms.bases.arithmetic import pick
from fewbits.rng import Key


class Sparse:
    """A[i, b(i)] = +-1/sqrt(c(b(i))), c(j) the number of rows that follow coordinate j: exactly orthonormal columns.

    A count sketch (Charikar et al. 2002) with balanced buckets: each d neighbouring rows follow all d coordinates, once
    each, in an order of their own, and the rows are turned by a random number of places. Then c is D/d up to rounding,
    and E[A A^T] = d/D I, because the mean over the turns of 1/c(b(i)) is d/D for every row. O(D), one pass.
    """

    def __init__(self, numel: int, dim: int, key: Key) -> None:
        self.numel, self.dim = numel, dim
        order = key.fold("P").shuffle(dim, rows=-(-numel // dim)).reshape(-1)[:numel]
        counts = np.bincount(order, minlength=dim)
        places = np.roll(order, -int(key.fold("turn").below(numel, 1)[0]))
        self.places, self.signs = torch.from_numpy(places), torch.from_numpy(key.fold("B").signs(numel))
        self._rows = self.places.numpy(), self.signs.numpy()
        kernels.sketch.check_places(*self._rows, numel, dim)  # once, as each step of training takes them
        self.factor = math.sqrt(dim / numel)
        self.norms = torch.from_numpy(np.sqrt(numel / dim / counts))  # near 1; the factor first: sums of 1e38 overflow
        self.nbytes = self.places.nbytes + self.signs.nbytes + self.norms.nbytes

    def expand(self, s: Tensor) -> Tensor:
        """A s.  # (dim,) -> (numel,)"""
        here = s.cpu()
        return pick(here * self.factor * self.norms.to(s.dtype), self.places, self.signs).to(s.device)

    def moved(self, start: Tensor, s: Tensor, gain: float) -> Tensor:
        """start + gain A s, in one pass on the CPU.  # (numel,), (dim,) -> (numel,)"""
        values = (s * self.factor * self.norms.to(s.dtype)).numpy()
        return torch.from_numpy(kernels.sketch.move(start.numpy(), values, *self._rows, gain))

    def project(self, x: Tensor) -> Tensor:
        """A^T x.  # (numel,) -> (dim,); on the CPU, wherever x is"""
        sums = torch.from_numpy(kernels.sketch.collect(x.cpu().numpy(), *self._rows, self.factor, self.dim, True))
        return (sums * self.norms.to(x.dtype)).to(x.device)
