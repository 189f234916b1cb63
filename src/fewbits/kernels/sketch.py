"""Products with a matrix that has one entry per row, and with its transpose: gather and scatter-add.

In NumPy, in the order of i, each sum rounded once:

    pick(v, places, gains)              gains * v[places]
    move(x, v, places, gains, f)        x + gains * v[places] * f
    collect(x, places, gains, f, m)     out = np.zeros(m, x.dtype); np.add.at(out, places, gains * (x * f))
    rows_times(a, s)                    [sum in order of j of a[i, j] * s[j]]
    times_rows(x, a, out)               for i: out += x[i] * a[i]
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fewbits.errors import LocalError


def pick(values: np.ndarray, places: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Gather gains[i] * values[places[i]].  # (m,), (n,) int32, (n,) float32 or int8 -> (n,) of values' type

    Raises LocalError on a place outside 0..m-1, or when the lengths differ.
    """
    out = np.empty(len(places), values.dtype)
    _pick(out, values, check_places(places, gains, len(places), len(values)), gains)
    return out


def move(x: np.ndarray, values: np.ndarray, places: np.ndarray, gains: np.ndarray, factor: float) -> np.ndarray:
    """Compute x[i] + gains[i] * values[places[i]] * factor in one pass; each step is rounded by itself.  # (n,)

    The places are trusted: `check_places` says beforehand whether they may be.
    """
    if not len(places) == len(gains) == len(x):
        raise LocalError(f"sketch: expected {len(x)} places and gains; got {len(places)} and {len(gains)}")
    out = np.empty(len(places), values.dtype)
    _move(out, x, values, places.view(np.uint32), gains, values.dtype.type(factor))
    return out


def collect(
    x: np.ndarray, places: np.ndarray, gains: np.ndarray, factor: float, size: int, checked: bool = False
) -> np.ndarray:
    """Sum gains[i] * (x[i] * factor) into places[i], in order.  # (n,), (n,) int32, (n,) -> (size,) of x's type

    Raises LocalError on a place outside 0..size-1 unless they were `checked` before, or when the lengths differ.
    """
    out = np.zeros(size, x.dtype)
    found = places.view(np.uint32) if checked and len(places) == len(x) else check_places(places, gains, len(x), size)
    _collect(out, x, found, gains, x.dtype.type(factor))
    return out


def rows_times(a: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Compute a s, each sum in the order of the columns.  # (r, d) float32, (d,) -> (r,) of s's type"""
    out = np.zeros(len(a), s.dtype)
    _rows_times(out, _matrix(a, len(a), len(s)), s)
    return out


def times_rows(x: np.ndarray, a: np.ndarray, out: np.ndarray) -> None:
    """Add a^T x to out, row by row.  # (r,), (r, d) float32, out (d,) of x's type"""
    _times_rows(out, x, _matrix(a, len(x), len(out)))


def check_places(places: np.ndarray, gains: np.ndarray, n: int, size: int) -> np.ndarray:
    """Raise LocalError unless there are n of each, and all places are in 0..size-1.  # (n,) uint32"""
    if not len(places) == len(gains) == n:
        raise LocalError(f"sketch: expected {n} places and gains; got {len(places)} and {len(gains)}")
    if n and not 0 <= int(places.min()) <= int(places.max()) < size:  # compiled loops check no bounds
        raise LocalError(f"sketch: places must be in 0..{size - 1}; got {places.min()}..{places.max()}")
    return places.view(np.uint32)


def _matrix(a: np.ndarray, rows: int, columns: int) -> np.ndarray:
    if a.shape != (rows, columns):
        raise LocalError(f"sketch: expected a matrix of {rows} by {columns}; got {a.shape}")
    return a


@njit(cache=True, nogil=True)
def _pick(out, values, places, gains):
    for i in range(len(out)):
        out[i] = values[places[i]] * out.dtype.type(gains[i])


@njit(cache=True, nogil=True)
def _move(out, x, values, places, gains, factor):
    for i in range(len(out)):
        out[i] = x[i] + values[places[i]] * out.dtype.type(gains[i]) * factor


@njit(cache=True, nogil=True)
def _collect(out, x, places, gains, factor):
    for i in range(len(x)):
        out[places[i]] += x[i] * factor * out.dtype.type(gains[i])


@njit(cache=True, nogil=True)
def _rows_times(out, a, s):
    for i in range(len(out)):
        row = a[i]
        for j in range(len(s)):
            out[i] += row[j] * s[j]


@njit(cache=True, nogil=True)
def _times_rows(out, x, a):
    for i in range(len(x)):
        row = a[i]
        for j in range(len(out)):
            out[j] += x[i] * row[j]
