"""Products of a matrix with a few vectors, every sum in float64 and in a fixed order.

In NumPy, with M of m x n and factors laid by rows, p of r x m and q of r x n:

    times(M, q)         q @ M.T                 in LANES partial sums
    times_transposed    p @ M                   row of M after row
    orthonormalise(p)   p := rows of an orthonormal basis of p's row space; zeros where p has lower rank
    expand(p, q)        p.T @ q                 in the order of r
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fewbits.errors import LocalError

LANES = 16
NOISE = 1e-12  # a row of which less than this is left after projection was in the span of the rows before


def times(matrix: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Compute M q^T, transposed.  # (m, n) float, (r, n) float64 -> (r, m) float64"""
    _fit(matrix.shape[1], q)
    return _times(np.empty((len(q), len(matrix))), _view(matrix, matrix.dtype.type), _view(q, np.float64))


def times_transposed(matrix: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Compute M^T p^T, transposed.  # (m, n) float, (r, m) float64 -> (r, n) float64"""
    _fit(matrix.shape[0], p)
    return _times_transposed(
        np.zeros((len(p), matrix.shape[1])), _view(matrix, matrix.dtype.type), _view(p, np.float64)
    )


def orthonormalise(p: np.ndarray) -> np.ndarray:
    """Orthonormalise the rows by Gram-Schmidt, twice; rows beyond the rank become zero.  # (r, m) float64"""
    out = np.array(p, np.float64, order="C")
    _orthonormalise(out)
    return out


def expand(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Compute p^T q with float64 sums, in the type of p.  # (r, m), (r, n) -> (m, n)"""
    _fit(len(p), q.T)
    p, q = _view(p, p.dtype.type), _view(q, p.dtype.type)
    return _expand(np.empty((p.shape[1], q.shape[1]), p.dtype), p, q)


def _fit(length: int, factor: np.ndarray) -> None:
    if factor.ndim != 2 or factor.shape[1] != length:  # compiled loops check no bounds
        raise LocalError(f"low_rank: expected factors of length {length}; got shape {factor.shape}")


def _view(x: np.ndarray, dtype: type[np.generic]) -> np.ndarray:
    view = np.require(x, dtype, ["C", "A"]).view()
    view.flags.writeable = False
    return view


@njit(cache=True, nogil=True)
def _times(out, matrix, q):
    n = matrix.shape[1]
    whole = n // LANES * LANES
    sums, row = np.empty(LANES), np.empty(n)
    for i in range(len(matrix)):
        row[:] = matrix[i]  # widened once, not for each k
        for k in range(len(q)):
            other = q[k]
            sums[:] = 0
            for start in range(0, whole, LANES):
                a, b = row[start : start + LANES], other[start : start + LANES]
                for j in range(LANES):
                    sums[j] += a[j] * b[j]
            for j in range(whole, n):
                sums[j - whole] += row[j] * other[j]
            total = 0.0
            for j in range(LANES):
                total += sums[j]
            out[k, i] = total
    return out


@njit(cache=True, nogil=True)
def _times_transposed(out, matrix, p):
    row = np.empty(matrix.shape[1])
    for i in range(len(matrix)):
        row[:] = matrix[i]
        for k in range(len(p)):
            to, share = out[k], p[k, i]
            for j in range(len(row)):
                to[j] += share * row[j]
    return out


@njit(inline="always")
def _inner(x, y):
    total = 0.0
    for i in range(len(x)):
        total += x[i] * y[i]
    return total


@njit(cache=True, nogil=True)
def _orthonormalise(p):
    for k in range(len(p)):
        row = p[k]
        before = np.sqrt(_inner(row, row))
        for _ in range(2):
            for earlier in range(k):
                other = p[earlier]
                share = _inner(row, other)
                for i in range(len(row)):
                    row[i] -= share * other[i]
            left = np.sqrt(_inner(row, row))
            gain = 1 / left if left > NOISE * before else 0.0
            for i in range(len(row)):
                row[i] *= gain
            before = 1.0


@njit(cache=True, nogil=True)
def _expand(out, p, q):
    sums = np.empty(q.shape[1])
    for i in range(len(out)):
        sums[:] = 0
        for k in range(len(p)):
            share, row = np.float64(p[k, i]), q[k]
            for j in range(len(row)):
                sums[j] += share * np.float64(row[j])
        to = out[i]
        for j in range(len(to)):
            to[j] = sums[j]
    return out
