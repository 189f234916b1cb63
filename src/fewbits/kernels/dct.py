"""The orthonormal discrete cosine transform, type II, of each chunk of a vector; and back.

In NumPy, for a chunk of c entries, c a power of two:

    M[k, j] = sqrt((1 if k == 0 else 2) / c) * cos(pi * (2 * j + 1) * k / (2 * c)), rounded to the type of x
    transform   M @ x
    back        M.T @ y

Sums are taken in order, in the type of x, with each product rounded, so the bits are the same on every machine. The
cosines are made of square roots and quotients alone, which all machines round alike. A stretch that is no multiple of
the chunk ends in chunks of smaller powers of two.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

from fewbits.errors import LocalError

TYPES = (np.float32, np.float64)
MOST = 1024  # entries of a chunk; the table has as many rows


def transform(x: np.ndarray, offsets: np.ndarray, chunk: int) -> np.ndarray:
    """Transform each chunk of each stretch.  # (n,) float32 or float64, (m+1,) int64 -> (n,)

    Raises LocalError unless the chunk is a power of two up to 1024 and the offsets ascend from 0 to n.
    """
    return _each(x, offsets, chunk, forward=True)


def back(y: np.ndarray, offsets: np.ndarray, chunk: int) -> np.ndarray:
    """Undo `transform`, up to rounding.  # (n,) -> (n,)"""
    return _each(y, offsets, chunk, forward=False)


@lru_cache(maxsize=32)
def matrix(c: int, dtype: type[np.floating]) -> np.ndarray:
    """M of chunks of c entries.  # (c, c)"""
    cosines, (k, j) = _cosines(c), np.indices((c, c))
    turn = (2 * j + 1) * k % (4 * c)  # in quarters of pi / (2 c)
    turn = np.minimum(turn, 4 * c - turn)
    values = np.where(turn <= c, cosines[np.minimum(turn, 2 * c - turn)], -cosines[np.minimum(turn, 2 * c - turn)])
    return (values * np.sqrt(np.where(k == 0, 1.0, 2.0) / c)).astype(dtype)


def _cosines(c: int) -> np.ndarray:
    """cos(pi * t / (2 c)) for t = 0..c, by halving: cos(a + h) = (cos a + cos(a + 2 h)) / (2 cos h)."""
    table = np.zeros(c + 1)
    table[0], table[c], step = 1.0, 0.0, c
    while step > 1:
        half = step // 2
        table[half] = np.sqrt((1 + table[step]) / 2)
        middle = np.arange(step + half, c, step)
        table[middle] = (table[middle - half] + table[middle + half]) / (2 * table[half])
        step = half
    return table


def _each(x: np.ndarray, offsets: np.ndarray, chunk: int, forward: bool) -> np.ndarray:
    if x.dtype not in TYPES or x.ndim != 1 or not 1 <= chunk <= MOST or chunk & (chunk - 1):
        raise LocalError(
            f"dct: expected a float32 or float64 vector and a chunk that is a power of two up to {MOST}; "
            f"got {x.dtype} of shape {x.shape} and chunk={chunk}"
        )
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(x) or bool(np.any(np.diff(offsets) < 0)):
        raise LocalError(f"dct: offsets must ascend from 0 to {len(x)}; got {offsets[:3]}..{offsets[-1:]}")
    x, out = np.ascontiguousarray(x), np.empty(len(x), x.dtype)
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        size = chunk
        while start < end:  # the whole chunks, then smaller ones
            stop = start + (end - start) // size * size
            if stop > start:
                table = matrix(size, x.dtype.type)
                # _sums wants row j to be what entry j adds to every result
                _sums(out[start:stop], x[start:stop], np.ascontiguousarray(table.T) if forward else table)
            start, size = stop, size // 2
    return out


@njit(cache=True, nogil=True)
def _sums(out, x, rows):
    """Each chunk of `out` becomes the sum over j of x[j] * rows[j], in the order of j."""
    c = len(rows)
    for start in range(0, len(x), c):
        total, part = out[start : start + c], x[start : start + c]
        total[:] = 0
        j = 0
        while j + 4 <= c:  # four at a time, each product added by itself
            a, b, d, e = part[j], part[j + 1], part[j + 2], part[j + 3]
            p, q, r, s = rows[j], rows[j + 1], rows[j + 2], rows[j + 3]
            for k in range(c):
                total[k] = (((total[k] + a * p[k]) + b * q[k]) + d * r[k]) + e * s[k]
            j += 4
        while j < c:
            a, p = part[j], rows[j]
            for k in range(c):
                total[k] = total[k] + a * p[k]
            j += 1
