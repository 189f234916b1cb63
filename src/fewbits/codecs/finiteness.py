"""Whether every number of a vector is finite, and its 2-norm: one pass each."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from fewbits import kernels

OVERFLOW, UNDERFLOW = 1e30, 1e-30  # squares beyond these are summed in float64


def all_finite(x: Tensor) -> bool:
    """Whether every number is finite.

    >>> all_finite(torch.tensor([3e38, -3e38])), all_finite(torch.tensor([0.0, math.inf]))
    (True, False)
    """
    if x.dtype == torch.float32 and x.is_contiguous() and x.device.type == "cpu":
        flat = x.detach().reshape(-1)
        # A finite sum of squares has finite terms, since squares do not cancel; torch.isfinite takes 20 times as long.
        if math.isfinite(torch.dot(flat, flat)):
            return True
        return kernels.select.first_bad(flat.numpy()) == 0  # the sum may have overflowed
    return bool(torch.isfinite(x).all())


def norm(x: Tensor) -> float:
    """The 2-norm.

    By NumPy, whose product of a vector with itself is the same for any number of threads and any alignment.
    """
    values = x.detach().numpy()
    square = float(np.vdot(values, values))  # as `np.dot`, which would warn of an overflow
    if not UNDERFLOW < square < OVERFLOW or values.dtype != np.float32:
        wide = values.astype(np.float64)
        square = float(np.vdot(wide, wide))
    return square**0.5
