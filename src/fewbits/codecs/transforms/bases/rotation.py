"""A random rotation of a whole vector: two passes of signs and overlapping Hadamard blocks, and a shuffle between."""

from __future__ import annotations

import torch
from torch import Tensor

from fewbits.codecs.transforms.bases.arithmetic import orthonormal_hadamard_
from fewbits.rng import Key


class Rotation:
    """y = R x, R orthogonal: two passes, and between them the entries of even places go before those of odd ones.

    In a pass each entry gets a random sign. Then the first L entries are transformed, L the largest power of two up to
    numel. If L is smaller than numel, the last L get new signs and are transformed, too; so nothing is padded. After
    one pass a part of the vector may have larger entries than the rest, and a spike's entries have few values. The
    shuffle gives each block of the second pass its share of both parts.
    """

    def __init__(self, numel: int, key: Key) -> None:
        self.numel, self.size = numel, 1 << numel.bit_length() - 1 if numel else 0
        self.passes = [_Pass(numel, self.size, key.fold("pass", p)) for p in range(2)] if numel else []

    def forward(self, x: Tensor) -> Tensor:
        """R x.  # (numel,) -> (numel,)"""
        if not self.numel:
            return x.clone()
        first, second = self.passes
        y = first.forward_(x.clone())
        return second.forward_(y if self.size == self.numel else torch.cat([y[::2], y[1::2]]))

    def back(self, y: Tensor) -> Tensor:
        """R^T y.  # (numel,) -> (numel,)"""
        if not self.numel:
            return y.clone()
        first, second = self.passes
        x = second.back_(y.clone())
        if self.size != self.numel:
            half, mixed = (self.numel + 1) // 2, torch.empty_like(x)
            mixed[::2], mixed[1::2] = x[:half], x[half:]
            x = mixed
        return first.back_(x)


class _Pass:
    """Signs and one or two blocks."""

    def __init__(self, numel: int, size: int, key: Key) -> None:
        self.size = size
        self.signs = torch.from_numpy(key.fold("B").signs(numel))
        self.again = torch.from_numpy(key.fold("C").signs(size)) if size < numel else None

    def forward_(self, y: Tensor) -> Tensor:
        y.mul_(self.signs.to(y.device))
        orthonormal_hadamard_(y[: self.size])
        if self.again is not None:
            orthonormal_hadamard_(y[-self.size :].mul_(self.again.to(y.device)))
        return y

    def back_(self, y: Tensor) -> Tensor:
        if self.again is not None:
            orthonormal_hadamard_(y[-self.size :])
            y[-self.size :].mul_(self.again.to(y.device))
        orthonormal_hadamard_(y[: self.size])
        return y.mul_(self.signs.to(y.device))
