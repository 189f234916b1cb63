"""Signs and a few sizes: each entry becomes its sign and a class of magnitudes, decoded as the mean of the class.

Stretches are as in `quantise`. With borders b, ascending, in NumPy for one stretch:

    classify   2 * np.searchsorted(b, np.abs(x), side="right") + (x < 0)
    sums       a = np.abs(np.float64(x)); for each class j: a[codes >> 1 == j].sum(), (codes >> 1 == j).sum()
    expand     np.where(codes & 1, -1, 1) * means[codes >> 1]

`borders` finds where to cut, on a sample, by Lloyd's iteration. Sums go to LANES partial sums whose order is fixed, so
that the result is the same on every machine.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fewbits.errors import LocalError
from fewbits.kernels.quantise import LANES, LARGEST, norms, stretches

SAMPLE = 1 << 16  # entries of a stretch, at equal distances, that the borders are fitted to
ROUNDS = 10  # of Lloyd's iteration
MOST = 64  # classes


def borders(x: np.ndarray, offsets: np.ndarray, classes: int) -> np.ndarray:
    """Cut the magnitudes of each stretch into classes, with nearly the least squared error.  # (m, classes-1) float32

    Centres begin at least + (mean - least) * (2.5 r + 1.1 r^3), r = (j + 1/2) / classes, which fits bells and tails. In
    each of ROUNDS rounds borders are midway between centres, and centres become the means of their classes; that of an
    empty class becomes the largest magnitude.
    """
    x, offsets = stretches(x, np.float32, offsets)
    _check(classes)
    out = np.zeros((len(offsets) - 1, classes - 1), np.float32)
    r = (np.arange(classes) + 0.5) / classes
    _borders(out, x, offsets, 2.5 * r + 1.1 * r * r * r)
    return out


def classify(x: np.ndarray, offsets: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """Give each entry twice its class, plus one where it is negative.  # (n,) float32, (m, classes-1) -> (n,) uint8

    Raises LocalError unless there is one row of borders per stretch.
    """
    x, offsets = stretches(x, np.float32, offsets)
    if len(borders) != len(offsets) - 1:
        raise LocalError(f"sizes: expected borders for {len(offsets) - 1} stretches; got {len(borders)}")
    out = np.empty(len(x), np.uint8)
    _classify(out, x, offsets, np.ascontiguousarray(borders, np.float32))
    return out


def sums(x: np.ndarray, codes: np.ndarray, offsets: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Add up |x| in each class of each stretch, in float64, and count.  # (m, classes) float64 and int64"""
    x, offsets = stretches(x, np.float32, offsets)
    _check_codes(codes, len(x), classes)
    totals, counts = np.zeros((len(offsets) - 1, classes)), np.zeros((len(offsets) - 1, classes), np.int64)
    _sums(totals, counts, x, codes, offsets)
    return totals, counts


def expand(codes: np.ndarray, offsets: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Give each entry the mean of its class, with its sign.  # (n,) uint8, (m, classes) float32 -> (n,) float32

    Raises LocalError unless there is one row of means per stretch, and one mean for each class that occurs.
    """
    codes, offsets = stretches(codes, np.uint8, offsets)
    if len(means) != len(offsets) - 1:
        raise LocalError(f"sizes: expected means for {len(offsets) - 1} stretches; got {len(means)}")
    _check_codes(codes, len(codes), means.shape[1])
    out = np.empty(len(codes), np.float32)
    table = np.ascontiguousarray(np.stack([means, -means], axis=2), np.float32).reshape(len(means), 2 * means.shape[1])
    _expand(out, codes, offsets, table)
    return out


def lengthen(x: np.ndarray, codes: np.ndarray, offsets: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Multiply the means of each stretch by <x, x> / <x, q>, q what they decode to; at most the largest float32.

    # (n,) float32, (n,) uint8, (m+1,) int64, (m, classes) float32 -> (m, classes) float32
    """
    totals, _ = sums(x, codes, offsets, means.shape[1])
    squares = np.float64(norms(x, offsets)) ** 2
    products = (totals * means).sum(axis=1)
    gains = squares / np.where(products > 0, products, 1)
    return np.minimum(means * gains[:, None], LARGEST).astype(np.float32)


def _check(classes: int) -> None:
    if not 1 <= classes <= MOST:
        raise LocalError(f"sizes: classes must be in 1..{MOST}; got {classes}")


def _check_codes(codes: np.ndarray, n: int, classes: int) -> None:
    _check(classes)
    if codes.dtype != np.uint8 or codes.shape != (n,) or (n and int(codes.max()) >= 2 * classes):
        raise LocalError(f"sizes: expected {n} uint8 codes below {2 * classes}; got {codes.dtype} {codes.shape}")


@njit(cache=True, nogil=True)
def _borders(out, x, offsets, shape):
    classes = len(shape)
    totals, counts = np.empty(classes), np.empty(classes, np.int64)
    for j in range(len(out)):
        part, row = x[offsets[j] : offsets[j + 1]], out[j]
        if classes == 1 or len(part) == 0:
            continue
        sample = np.abs(part[:: (len(part) + SAMPLE - 1) // SAMPLE])
        least, most, total = sample[0], sample[0], 0.0
        for size in sample:
            least, most = min(least, size), max(most, size)
            total += np.float64(size)
        centres = least + (total / len(sample) - least) * shape
        for _ in range(ROUNDS + 1):
            for c in range(classes - 1):
                row[c] = np.float32((centres[c] + centres[c + 1]) / 2)
            totals[:], counts[:] = 0, 0
            for size in sample:
                c = 0
                for border in row:
                    c += size >= border
                totals[c] += np.float64(size)
                counts[c] += 1
            for c in range(classes):
                centre = totals[c] / counts[c] if counts[c] > 0 else np.float64(most)
                centres[c] = max(centre, centres[c - 1]) if c > 0 else centre  # an empty class may stand before others


@njit(cache=True, nogil=True)
def _classify(out, x, offsets, borders):
    for j in range(len(borders)):
        codes, part = out[offsets[j] : offsets[j + 1]], x[offsets[j] : offsets[j + 1]]
        row = borders[j]
        for i in range(len(part)):
            codes[i] = np.uint8(part[i] < 0)
        for border in row:
            for i in range(len(part)):
                codes[i] = np.uint8(codes[i] + np.uint8(2 * np.uint8(abs(part[i]) >= border)))


@njit(cache=True, nogil=True)
def _sums(totals, counts, x, codes, offsets):
    lanes = np.empty(LANES, np.float64)
    for j in range(len(totals)):
        part, code = x[offsets[j] : offsets[j + 1]], codes[offsets[j] : offsets[j + 1]]
        for c in range(totals.shape[1]):
            lanes[:] = 0
            found = 0
            for start in range(0, len(part), LANES):
                row, kinds = part[start : start + LANES], code[start : start + LANES]
                for i in range(len(row)):
                    here = (kinds[i] >> 1) == c
                    lanes[i] += abs(np.float64(row[i])) if here else 0.0
                    found += here
            total = 0.0
            for i in range(LANES):
                total += lanes[i]
            totals[j, c], counts[j, c] = total, found


@njit(cache=True, nogil=True)
def _expand(out, codes, offsets, table):
    for j in range(len(table)):
        values, part = out[offsets[j] : offsets[j + 1]], codes[offsets[j] : offsets[j + 1]]
        row = table[j]
        for i in range(len(part)):
            values[i] = row[part[i]]
