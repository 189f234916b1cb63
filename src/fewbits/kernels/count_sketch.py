"""Count sketches: every entry is added, with a random sign, to one random column in each row of a table.

In NumPy, for the row whose word is w and the entry at place i, with integers modulo 2^64:

    z = w + (i + 1) * 0x9E3779B97F4A7C15, through splitmix64's finaliser (Steele et al. 2014)
    column = ((z >> 32) * columns) >> 32          sign = 1 - 2 * (z & 1)
    sketch    np.add.at(table[row], column, sign * x), in float64
    median    np.median over the rows of sign * table[row, column]
    mean      the same with np.mean, in float64

Nothing is drawn beforehand, so a sketch needs no memory but its table, and sums have the order of the entries.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fewbits.errors import LocalError
from fewbits.kernels.select import read_only

BLOCK = 256  # entries whose estimates are sorted side by side
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
ONE, HALF = np.uint64(1), np.uint64(32)
S30, S27, S31 = np.uint64(30), np.uint64(27), np.uint64(31)


def sketch(x: np.ndarray, words: np.ndarray, columns: int) -> np.ndarray:
    """Sketch a vector.  # (n,) float, (rows,) uint64 -> (rows, columns) float64"""
    x = read_only(x, x.dtype.type)
    return _sketch(np.zeros(_shape(words, columns)), x, _words(words))


def sketch_sparse(support: np.ndarray, values: np.ndarray, words: np.ndarray, columns: int) -> np.ndarray:
    """Sketch a sparse vector.  # (k,) int64, (k,) float -> (rows, columns) float64

    Raises LocalError when there is not one value per place.
    """
    if len(support) != len(values):
        raise LocalError(f"count_sketch: expected one value per place; got {len(support)} and {len(values)}")
    support, values = read_only(support, np.int64), read_only(values, values.dtype.type)
    return _sketch_sparse(np.zeros(_shape(words, columns)), support, values, _words(words))


def median(table: np.ndarray, words: np.ndarray, n: int) -> np.ndarray:
    """Estimate entries by the median over the rows, or half the sum of the middle two.  # -> (n,) of table's type"""
    return _median(np.empty(n, table.dtype), _table(table, words), _words(words))


def mean(table: np.ndarray, words: np.ndarray, n: int) -> np.ndarray:
    """Estimate entries by the mean over the rows.  # (rows, columns), (rows,) uint64 -> (n,) of table's type"""
    return _mean(np.empty(n, table.dtype), _table(table, words), _words(words))


def _shape(words: np.ndarray, columns: int) -> tuple[int, int]:
    if not (len(words) and 1 <= columns < 2**31):
        raise LocalError(f"count_sketch: expected 1..2^31-1 columns and a row; got {columns} and {len(words)} rows")
    return len(words), columns


def _table(table: np.ndarray, words: np.ndarray) -> np.ndarray:
    if table.ndim != 2 or table.shape != _shape(words, table.shape[-1]):  # compiled loops check no bounds
        raise LocalError(f"count_sketch: expected a table of {len(words)} rows; got shape {table.shape}")
    view = np.ascontiguousarray(table).view()
    view.flags.writeable = False
    return view


def _words(words: np.ndarray) -> np.ndarray:
    return read_only(words, np.uint64)


@njit(inline="always")
def _hash(word, i):
    z = word + (np.uint64(i) + ONE) * GOLDEN
    z = (z ^ (z >> S30)) * FIRST
    z = (z ^ (z >> S27)) * SECOND
    return z ^ (z >> S31)


@njit(inline="always")
def _column(z, columns):
    return ((z >> HALF) * columns) >> HALF


@njit(cache=True, nogil=True)
def _sketch(out, x, words):
    columns = np.uint64(out.shape[1])
    for r in range(len(words)):
        row, word = out[r], words[r]
        for i in range(len(x)):
            z, value = _hash(word, i), np.float64(x[i])
            row[_column(z, columns)] += -value if z & ONE else value
    return out


@njit(cache=True, nogil=True)
def _sketch_sparse(out, support, values, words):
    columns = np.uint64(out.shape[1])
    for r in range(len(words)):
        row, word = out[r], words[r]
        for j in range(len(support)):
            z, value = _hash(word, support[j]), np.float64(values[j])
            row[_column(z, columns)] += -value if z & ONE else value
    return out


@njit(inline="always")
def _gather(out, row, word, start, size):
    columns = np.uint64(len(row))
    for i in range(size):
        z = _hash(word, start + i)
        value = row[_column(z, columns)]
        out[i] = -value if z & ONE else value


@njit(cache=True, nogil=True)
def _median(out, table, words):
    rows = len(words)
    found = np.empty((rows, BLOCK), table.dtype)
    for start in range(0, len(out), BLOCK):
        part = out[start : start + BLOCK]
        for r in range(rows):
            _gather(found[r], table[r], words[r], start, len(part))
        for step in range(rows):  # odd-even transposition: `rows` rounds sort any order, without a branch
            for r in range(step & 1, rows - 1, 2):
                low, high = found[r], found[r + 1]
                for i in range(BLOCK):
                    a, b = low[i], high[i]
                    low[i] = a if a < b else b
                    high[i] = b if a < b else a
        low, high = found[(rows - 1) // 2], found[rows // 2]
        for i in range(len(part)):
            part[i] = low[i] if rows & 1 else table.dtype.type(0.5) * low[i] + table.dtype.type(0.5) * high[i]
    return out


@njit(cache=True, nogil=True)
def _mean(out, table, words):
    rows = len(words)
    found, total = np.empty(BLOCK, table.dtype), np.empty(BLOCK, np.float64)
    for start in range(0, len(out), BLOCK):
        part = out[start : start + BLOCK]
        total[:] = 0
        for r in range(rows):
            _gather(found, table[r], words[r], start, len(part))
            for i in range(len(part)):
                total[i] += np.float64(found[i])
        for i in range(len(part)):
            part[i] = total[i] / rows
    return out
