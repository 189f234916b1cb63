"""Fastfood: a Gaussian-like basis from two Walsh-Hadamard transforms (Le, Sarlos, Smola 2013; Li et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fewbits.codecs.transforms.bases.arithmetic import LARGEST, collect, hadamard_, pick, power_of_two
from fewbits.rng import Key

LEAST = 4096  # entries of the first transform, so that few rows share one of them
WASTE = 1 / 8  # of the rows: the most that padding may add


class Fastfood:
    """A x = rows of H (G * (H (B * pad(x)))[P]) / sqrt(D sum G^2), block under block, each with its own B, P, G.

    H is the unnormalised transform of L entries, B signs, P a permutation, G normal. In one block of L = D rows this is
    the formula of papers on intrinsic dimension: columns of unit length, in expectation where L > D. H (B * pad(x))
    repeats itself every w entries, w a power of two that x fits into, so only w of them are worked out, and the adjoint
    adds up before its second transform.
    """

    def __init__(self, numel: int, dim: int, key: Key) -> None:
        self.numel, self.dim = numel, dim
        self.blocks = [
            _Block(key.fold("block", i), numel, dim, start, stop, size)
            for i, (start, stop, size) in enumerate(blocks(numel, dim))
        ]
        self.nbytes = sum(block.places.nbytes + block.gains.nbytes + block.signs.nbytes for block in self.blocks)

    def expand(self, s: Tensor) -> Tensor:
        """A s.  # (dim,) -> (numel,)"""
        out = torch.empty(self.numel, dtype=s.dtype, device=s.device)
        for block in self.blocks:
            block.expand(s, out[block.start : block.stop])
        return out

    def project(self, x: Tensor) -> Tensor:
        """A^T x.  # (numel,) -> (dim,)"""
        total = torch.zeros(self.dim, dtype=x.dtype, device=x.device)
        for block in self.blocks:
            total += block.project(x[block.start : block.stop])
        return total


class _Block:
    """Rows start:stop of the basis."""

    def __init__(self, key: Key, numel: int, dim: int, start: int, stop: int, size: int) -> None:
        self.start, self.stop, self.size, self.dim = start, stop, size, dim
        self.width = min(size, max(LEAST, power_of_two(dim)))
        self.signs = torch.from_numpy(key.fold("B").signs(dim))
        self.places = torch.from_numpy(key.fold("P").shuffle(size)[0] & np.int32(self.width - 1))
        self.gains = torch.from_numpy(key.fold("G").normal(size))
        units = (self.gains.numpy() * 65536).astype(np.int64)  # exact, and so is their sum in any order
        self.factor = 1 / math.sqrt(numel * (int((units * units).sum()) / 2**32))

    def expand(self, s: Tensor, out: Tensor) -> None:
        """Write these rows of A s; multiplied by the small factor first, nothing on the way exceeds the result."""
        v = torch.zeros(self.width, dtype=s.dtype, device=s.device)
        v[: self.dim] = s * self.factor * self.signs.to(s.device)
        hadamard_(v)
        y = pick(v, self.places, self.gains)
        hadamard_(y)
        out.copy_(y[: len(out)])

    def project(self, x: Tensor) -> Tensor:
        """These rows' share of A^T x.  # (dim,)"""
        y = torch.zeros(self.size, dtype=x.dtype, device=x.device)
        torch.mul(x, self.factor, out=y[: len(x)])
        hadamard_(y)
        v = collect(y, self.places, self.gains, 1.0, self.width)
        hadamard_(v)
        return v[: self.dim] * self.signs.to(x.device)


def blocks(numel: int, dim: int) -> Iterator[tuple[int, int, int]]:
    """(start, stop, padded size) of each block: a power of two, dim at least, with little padding in all."""
    least, start = power_of_two(dim), 0
    while start < numel:
        rest = numel - start
        size = max(least, power_of_two(rest))
        if size > least and (size - rest > WASTE * numel or size > max(LARGEST, least)):
            size = max(least, min(size // 2, LARGEST))
        yield start, min(numel, start + size), size
        start += size
