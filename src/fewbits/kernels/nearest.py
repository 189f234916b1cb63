"""Rounding to the nearest of a few levels, and the gain that fits them best; one scale per stretch.

Stretches are as in `quantise`. In NumPy, for one stretch:

    nearest   np.sign(x) * np.minimum(s, np.floor(np.abs(x) / step + 0.5)), 0 where step is 0; in float64
    gain      np.sum(np.float64(x) * levels) / np.sum(np.float64(levels) ** 2), 0 where all levels are 0
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fewbits.errors import LocalError
from fewbits.kernels.quantise import one_each, stretches


def nearest(x: np.ndarray, offsets: np.ndarray, steps: np.ndarray, s: int) -> np.ndarray:
    """Round x / step to whole numbers in [-s, s], halves away from zero.  # (n,) float32, (m,) float32 -> (n,) int8

    Raises LocalError unless 1 <= s <= 127 and there is one step per stretch.
    """
    x, offsets = stretches(x, np.float32, offsets)
    steps = one_each(steps, offsets)
    if not 1 <= s <= 127:
        raise LocalError(f"nearest: s must be in 1..127; got {s}")
    out = np.empty(len(x), np.int8)
    _nearest(out, x, offsets, steps, int(s))
    return out


def gains(x: np.ndarray, levels: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Compute <x, levels> / |levels|^2 of each stretch, summed in order in float64.  # (m,) float32"""
    x, offsets = stretches(x, np.float32, offsets)
    if len(levels) != len(x) or levels.dtype != np.int8:
        raise LocalError(f"gains: expected {len(x)} int8 levels; got {len(levels)} of {levels.dtype}")
    return _gains(x, levels, offsets).astype(np.float32)


@njit(cache=True, nogil=True)
def _nearest(out, x, offsets, steps, s):
    for j in range(len(steps)):
        levels, part = out[offsets[j] : offsets[j + 1]], x[offsets[j] : offsets[j + 1]]
        ratio = 1.0 / np.float64(steps[j]) if steps[j] > 0 else 0.0
        for i in range(len(part)):
            value = np.float64(part[i]) * ratio
            size = abs(value) + 0.5
            level = np.int32(size if size < s else s)
            levels[i] = np.int8(-level if value < 0 else level)


@njit(cache=True, nogil=True)
def _gains(x, levels, offsets):
    out = np.zeros(len(offsets) - 1)
    for j in range(len(out)):
        part, carried = x[offsets[j] : offsets[j + 1]], levels[offsets[j] : offsets[j + 1]]
        above, below = 0.0, 0
        for i in range(len(part)):
            level = np.int64(carried[i])
            above += np.float64(part[i]) * level
            below += level * level
        if below > 0:
            out[j] = above / below
    return out
