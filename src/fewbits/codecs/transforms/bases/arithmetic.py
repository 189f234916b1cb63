"""The few operations that bases are made of: compiled on the CPU, plain torch elsewhere, the same bits in both.

Every entry of a result is a sum whose order is fixed, so neither device nor number of threads changes it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fewbits import kernels

LARGEST = 1 << 20  # entries of one transform in a basis: beyond, blocks of their own mix as well and stay in cache


def hadamard_(x: Tensor) -> None:
    """x := H x in place, unnormalised.  # (n,) float32 or float64, n a power of two"""
    if compiled(x):
        kernels.hadamard.transform(x.numpy())
    else:
        butterflies_(x)


def orthonormal_hadamard_(x: Tensor) -> None:
    """x := H x / sqrt(n) in place; divided first, because sums of 1e38 would overflow.  # (n,), n a power of two"""
    hadamard_(x.mul_(1 / math.sqrt(len(x))))


def pick(values: Tensor, places: Tensor, gains: Tensor) -> Tensor:
    """gains * values[places].  # (m,), (n,) int32, (n,) float32 or int8 -> (n,)"""
    if compiled(values):
        return torch.from_numpy(kernels.sketch.pick(values.numpy(), places.numpy(), gains.numpy()))
    return values[places.to(values.device, torch.int64)] * gains.to(values.device)


def collect(x: Tensor, places: Tensor, gains: Tensor, factor: float, size: int) -> Tensor:
    """The sum of gains * (factor * x) into places, in the order of x.  # (n,), (n,) int32, (n,) -> (size,)

    Elsewhere than on the CPU, as many steps as the fullest place has entries: atomic additions come in any order.
    """
    if compiled(x):
        out = kernels.sketch.collect(x.numpy(), places.numpy(), gains.numpy(), factor, size)
        return torch.from_numpy(out)
    places = places.to(x.device, torch.int64)
    values = x * factor * gains.to(x.device)
    order = torch.argsort(places, stable=True)
    counts = torch.bincount(places, minlength=size)
    starts, out = torch.cumsum(counts, 0) - counts, torch.zeros(size, dtype=x.dtype, device=x.device)
    for step in range(int(counts.max())):
        here = (counts > step).nonzero()[:, 0]
        out[here] += values[order[starts[here] + step]]
    return out


def butterflies_(x: Tensor) -> None:
    """The same transform, one stage after the other."""
    stride = 1
    while stride < len(x):
        pairs = x.view(-1, 2, stride)
        a, b = pairs[:, 0], pairs[:, 1]
        total, difference = a + b, a - b
        pairs[:, 0], pairs[:, 1] = total, difference
        stride *= 2


def compiled(x: Tensor) -> bool:
    """Whether the compiled loops can take it."""
    return x.device.type == "cpu"


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(n - 1, 0).bit_length()
