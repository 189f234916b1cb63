"""large: memory for vectors of a model's size.

torch maps such a block anew each time, in pages of 4 KiB, and their faults cost more than a pass over the vector. NumPy
asks Linux for pages of 2 MiB (madvise); the rest is the same.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LARGE = 4 * 2**20  # bytes; NumPy asks from here


def empty(numel: int, dtype: torch.dtype) -> Tensor:
    """A vector on the CPU whose values are not set.  # (numel,)"""
    size = numel * dtype.itemsize
    return torch.from_numpy(np.empty(size, np.uint8)).view(dtype) if size >= LARGE else torch.empty(numel, dtype=dtype)


def zeros(numel: int, dtype: torch.dtype) -> Tensor:
    """A vector of zeros on the CPU.  # (numel,)

    >>> zeros(2, torch.float32)
    tensor([0., 0.])
    """
    return empty(numel, dtype).zero_()


def clone(x: Tensor) -> Tensor:
    """A copy of a tensor, contiguous unless it is on another device, without its graph.  # of x's shape"""
    x = x.detach()
    return empty(x.numel(), x.dtype).view(x.shape).copy_(x) if x.is_cpu else x.clone()
