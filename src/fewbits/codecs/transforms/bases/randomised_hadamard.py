"""Columns of a randomised Hadamard matrix: exactly orthonormal, for every D and d <= D."""

from __future__ import annotations

import torch
from torch import Tensor

from fewbits.codecs.transforms.bases.arithmetic import LARGEST, orthonormal_hadamard_
from fewbits.rng import Key


class RandomisedHadamard:
    """A s = B * (Q s placed on a random d-subset): B signs, Q orthogonal, with Hadamard blocks on its diagonal.

    The subsampled randomised Hadamard transform (Ailon and Chazelle 2006; Tropp 2011). Blocks are powers of two, 2^20
    at most, that sum to D, so nothing is padded: A^T A = I, and E[A A^T] = d/D I over the subset and the signs.
    """

    def __init__(self, numel: int, dim: int, key: Key) -> None:
        self.numel, self.dim = numel, dim
        self.signs = torch.from_numpy(key.fold("B").signs(numel))
        self.chosen = torch.from_numpy(key.fold("S").subset(dim, numel))
        self.nbytes = self.signs.nbytes + self.chosen.nbytes

    def expand(self, s: Tensor) -> Tensor:
        """A s.  # (dim,) -> (numel,)"""
        y = torch.zeros(self.numel, dtype=s.dtype, device=s.device)
        y[self.chosen.to(s.device)] = s
        self._rotate_(y)
        return y.mul_(self.signs.to(s.device))

    def project(self, x: Tensor) -> Tensor:
        """A^T x.  # (numel,) -> (dim,)"""
        y = x * self.signs.to(x.device)
        self._rotate_(y)
        return y[self.chosen.to(x.device)]

    def _rotate_(self, y: Tensor) -> None:
        start = 0
        while start < self.numel:
            size = min(LARGEST, 1 << ((self.numel - start).bit_length() - 1))
            orthonormal_hadamard_(y[start : start + size])
            start += size
