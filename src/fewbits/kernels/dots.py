"""Inner products of two float32 vectors in one pass, accumulated in float64.

In NumPy: x, y = x.astype(float64), y.astype(float64); return x @ x, x @ y, y @ y. Sums go to LANES partial
sums whose order is fixed, so that the result is the same on every machine.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fewbits.kernels.select import read_only

LANES = 32


def products(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Return (<x, x>, <x, y>, <y, y>) of two vectors of the same length.  # (n,) float32 each"""
    sums = np.zeros((3, LANES), np.float64)
    _products(read_only(x, np.float32), read_only(y, np.float32), sums)
    xx, xy, yy = sums.sum(axis=1)
    return float(xx), float(xy), float(yy)


@njit(cache=True, nogil=True)
def _products(x, y, sums):
    xx, xy, yy = sums[0], sums[1], sums[2]
    whole = len(x) // LANES * LANES
    for start in range(0, whole, LANES):
        a, b = x[start : start + LANES], y[start : start + LANES]
        for i in range(LANES):
            u, v = np.float64(a[i]), np.float64(b[i])
            xx[i] += u * u
            xy[i] += u * v
            yy[i] += v * v
    for i in range(whole, len(x)):
        u, v = np.float64(x[i]), np.float64(y[i])
        xx[i - whole] += u * u
        xy[i - whole] += u * v
        yy[i - whole] += v * v
