"""Selection of entries: exact top-k, threshold, scatter.

In NumPy, with `size = np.abs(x)`:

    largest(x, k)   order = np.lexsort((np.arange(n), -size))[:k]; np.sort(order[size[order] > 0])
    above(x, tau)   np.flatnonzero((size >= tau) & (size > 0))
    scatter(i, v)   out = np.zeros(n, np.float32); out[i] = v
    scatter_add     np.add.at(acc, i, np.float32(weight) * v)
    first_bad(x)    np.count_nonzero(~np.isfinite(x))

Magnitudes are compared as integers: the bits of a float32 without its sign are in the order of its size. So -0.0 is
zero, denormals count whatever the processor's flush mode, and a NaN is larger than every number.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from fewbits.errors import LocalError

MASK = np.uint32(0x7FFFFFFF)  # a float32 without its sign
ALL = 0x7FFFFFFF  # the same as a plain integer: the largest possible size
EXPONENT = np.uint32(0x7F800000)  # all ones here: infinite or NaN
LARGEST = float(np.finfo(np.float32).max)
BLOCK = 2048  # entries at a time, so that intermediate values stay in the first-level cache
BINS = 2048  # of the radix select: 11 bits a step, in the first-level cache
REST = np.uint32(BINS)  # one more bin, for values out of range
ZERO, ONE, TOP = np.uint64(0), np.uint64(1), np.uint64(56)
ONES = np.uint64(0x0101010101010101)
NONE = np.uint32(0)
SHORT = 1 << 14  # below this, sampling costs more than it saves


def read_only(x: np.ndarray, dtype: type[np.generic]) -> np.ndarray:
    """Return a read-only view, or a copy where needed, so that each kernel is compiled for one kind of array.  # (n,)

    Raises LocalError unless x is 1-D.
    """
    if x.ndim != 1:
        raise LocalError(f"kernels: expected a 1-D array; got shape {x.shape}")
    flags = x.flags
    fits = x.dtype == dtype and flags.c_contiguous and flags.aligned  # `require` takes eight calls to find that out
    view = (x if fits else np.require(x, dtype, ["C", "A"])).view()
    view.flags.writeable = False
    return view


def largest(x: np.ndarray, k: int) -> np.ndarray:
    """Find the k largest |x|, ties to the lower index, zeros never.  # (n,) float32 -> (k' <= k,) int64 ascending

    Exact: a sample guesses a slightly low threshold, one pass collects what is above it, and the choice is made among
    those; where the guess fails (ties), a radix select finds the threshold in the whole vector.
    """
    words = read_only(x, np.float32).view(np.uint32)
    return _largest(words, max(0, min(int(k), len(words))))


def above(x: np.ndarray, tau: float) -> np.ndarray:
    """Find all |x| >= tau with x != 0.  # (n,) float32 -> (k,) int64 ascending

    tau is compared exactly, not rounded to float32. Raises LocalError when tau is NaN.
    """
    if math.isnan(tau):
        raise LocalError("above: tau must be a number; got NaN")
    words = read_only(x, np.float32).view(np.uint32)
    low = np.float32(max(tau, 0.0) if tau <= LARGEST else np.inf)
    if float(low) < tau:  # as float64: against a NumPy scalar, tau itself would be rounded
        low = np.nextafter(low, np.float32(np.inf))
    bits = max(int(low.view(np.uint32)), 1)
    room = int(_narrow(words, bits, ALL)[2])
    out = np.empty(room + BLOCK, np.int64)
    return out[: int(_collect(words, bits, ALL, 0, out, room))]


def scatter(indices: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """Scatter values into zeros.  # (k,) int64, (k,) float32 -> (n,) float32

    Raises LocalError on an index outside 0..n-1, or when the lengths differ.
    """
    out = np.zeros(n, np.float32)
    _scatter(out, *_pairs(indices, values, n))
    return out


def scatter_add(acc: np.ndarray, indices: np.ndarray, values: np.ndarray, weight: float) -> None:
    """Add weight * values to acc[indices], in float32 and in place.  # acc (n,) float32

    Raises LocalError on an index outside 0..n-1, when the lengths differ, or when acc cannot be written in place.
    """
    if acc.dtype != np.float32 or acc.ndim != 1 or not acc.flags.carray:
        raise LocalError(f"scatter_add: expected a writable contiguous 1-D float32 array; got {acc.dtype} {acc.shape}")
    _scatter_add(acc, *_pairs(indices, values, len(acc)), np.float32(weight))


def first_bad(x: np.ndarray) -> int:
    """Count the values that are infinite or NaN.  # (n,) float32"""
    return int(_not_finite(read_only(x, np.float32).view(np.uint32)))


def _pairs(indices: np.ndarray, values: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    indices, values = read_only(indices, np.int64), read_only(values, np.float32)
    if len(indices) != len(values):
        raise LocalError(f"scatter: expected one value per index; got {len(values)} values, {len(indices)} indices")
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < n:  # compiled loops check no bounds
        raise LocalError(f"scatter: indices must be in 0..{n - 1}; got {indices.min()}..{indices.max()}")
    return indices, values


@njit(cache=True, nogil=True)
def _sample(words, size):
    """Sample one entry from each of `size` equal pieces, at a hashed position, so that periods of x do no harm."""
    out = np.empty(size, np.uint32)
    piece = len(words) // size
    for i in range(size):
        h = np.uint32(np.uint32(i) * np.uint32(0x9E3779B1))
        h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B))
        out[i] = words[i * piece + np.int64(np.uint32(h ^ (h >> np.uint32(16)))) % piece]
    return out


@njit(cache=True, nogil=True)
def _collect(words, low, high, base, out, room):
    """Write base + i for each i with low <= size <= high; return how many, or -1 when more than `room`.

    out has BLOCK places more than `room`. A block is first turned into one byte per entry (vector instructions), then
    eight bytes are looked at together: with few hits, most are passed over.
    """
    low, width = np.uint32(low), np.uint32(high - low)
    flags = np.zeros(BLOCK, np.uint8)
    eights = flags.view(np.uint64)
    count = 0
    for start in range(0, len(words), BLOCK):
        block = words[start : start + BLOCK]
        if len(block) < BLOCK:
            flags[:] = 0
        for j in range(len(block)):
            flags[j] = np.uint8(np.uint32(np.uint32(block[j] & MASK) - low) <= width)  # below low: wraps round
        for j in range(BLOCK // 8):
            hits = eights[j]
            while hits != ZERO:
                below = (hits & (~hits + ONE)) - ONE & ONES  # a one for each byte below the lowest hit
                out[count] = base + start + 8 * j + np.int64((below * ONES) >> TOP)  # their number, in the top byte
                count += 1
                hits &= hits - ONE
        if count > room:
            return -1
    return count


@njit(cache=True, nogil=True)
def _not_finite(words):
    count = 0
    for i in range(len(words)):
        count += np.uint32(words[i] & EXPONENT) == EXPONENT
    return count


@njit(cache=True, nogil=True)
def _narrow(words, low, high):
    """Return smallest size, largest size and number of the entries with low <= size <= high."""
    low, width = np.uint32(low), np.uint32(high - low)
    least, most, count = MASK, np.uint32(0), 0
    for start in range(0, len(words), BLOCK):
        block = words[start : start + BLOCK]
        some = np.int32(0)  # narrow, for sixteen sums at a time
        for j in range(len(block)):
            size = np.uint32(block[j] & MASK)
            inside = np.uint32(size - low) <= width
            least = np.uint32(min(least, size if inside else MASK))
            most = np.uint32(max(most, size if inside else NONE))
            some = np.int32(some + np.int32(inside))
        count += some
    return np.int64(least), np.int64(most), count


@njit(cache=True, nogil=True)
def _kth(words, k):
    """Return the k-th largest size (1 <= k <= n) and the number of larger ones, by radix select."""
    low, high, larger = np.int64(0), np.int64(MASK), 0
    counts = np.empty((4, BINS + 1), np.int32)
    while True:
        low, high, count = _narrow(words, low, high)
        if low == high:
            return low, larger
        if 16 * count <= len(words):
            places = np.empty(count + BLOCK, np.int64)
            _collect(words, low, high, 0, places, count)
            words = words[places[:count]]
        shift = 0
        while (high - low) >> shift >= BINS:
            shift += 1
        counts[:] = 0
        _histogram(words, low, high, shift, counts)
        b = BINS
        seen = 0
        while larger + seen < k:
            larger += seen
            b -= 1
            seen = np.int64(counts[0, b]) + counts[1, b] + counts[2, b] + counts[3, b]
        low, high = low + (b << shift), min(high, low + ((b + 1) << shift) - 1)


@njit(cache=True, nogil=True)
def _histogram(words, low, high, shift, counts):
    """Count sizes in low..high by bin, in four tables, so that equal neighbours do not wait."""
    low, width, shift = np.uint32(low), np.uint32(high - low), np.uint32(shift)
    c0, c1, c2, c3 = counts[0], counts[1], counts[2], counts[3]
    for i in range(len(words) // 4):
        four = words[4 * i : 4 * i + 4]
        d0 = np.uint32(np.uint32(four[0] & MASK) - low)
        d1 = np.uint32(np.uint32(four[1] & MASK) - low)
        d2 = np.uint32(np.uint32(four[2] & MASK) - low)
        d3 = np.uint32(np.uint32(four[3] & MASK) - low)
        c0[np.uint32(d0 >> shift) if d0 <= width else REST] += 1
        c1[np.uint32(d1 >> shift) if d1 <= width else REST] += 1
        c2[np.uint32(d2 >> shift) if d2 <= width else REST] += 1
        c3[np.uint32(d3 >> shift) if d3 <= width else REST] += 1
    for i in range(len(words) // 4 * 4, len(words)):
        d0 = np.uint32(np.uint32(words[i] & MASK) - low)
        c0[np.uint32(d0 >> shift) if d0 <= width else REST] += 1


@njit(cache=True, nogil=True)
def _cut(words, level, wanted):
    """Return the index after the wanted-th entry (wanted >= 1) whose size is `level`."""
    level = np.uint32(level)
    seen = 0
    for start in range(0, len(words), BLOCK):
        block = words[start : start + BLOCK]
        some = np.int32(0)
        for j in range(len(block)):
            some = np.int32(some + np.int32(np.uint32(block[j] & MASK) == level))
        if seen + some >= wanted:
            for j in range(len(block)):
                seen += np.uint32(block[j] & MASK) == level
                if seen == wanted:
                    return start + j + 1
        seen += some
    return len(words)


@njit(cache=True, nogil=True)
def _scatter(out, indices, values):
    for i in range(len(indices)):
        out[indices[i]] = values[i]


@njit(cache=True, nogil=True)
def _scatter_add(acc, indices, values, weight):
    for i in range(len(indices)):
        acc[indices[i]] += np.float32(weight * values[i])


@njit(cache=True, nogil=True)
def _largest(words, k):
    """Find the top-k of 0 <= k <= n entries: one call, for the way from Python costs more than a small vector."""
    if len(words) < SHORT or k > len(words) // 8 or k == 0:
        return _choose(words, k)
    low, room = _guess(words, k)
    candidates = np.empty(room + BLOCK, np.int64)
    found = _collect(words, low, ALL, 0, candidates, room)
    if found < 0 or (found < k and low > 1):
        return _choose(words, k)
    candidates = candidates[:found]
    return candidates[_choose(words[candidates], k)]


@njit(cache=True, nogil=True)
def _guess(words, k):
    """Estimate a threshold that about k + 4 sigma entries reach, and three times the room that they need."""
    n = len(words)
    size = max(n // 1000, 2048)
    expected = k / n * size
    rank = np.int64(math.ceil(expected + 4 * math.sqrt(expected) + 4))
    low, _ = _kth(_sample(words, size), min(rank, size))
    return max(low, 1), min(3 * rank * (n // size + 1), n)


@njit(cache=True, nogil=True)
def _choose(words, k):
    """Find the top-k by radix select: all entries larger than the k-th size, then the first equal ones."""
    k = min(k, len(words))
    if k == 0:
        return np.zeros(0, np.int64)
    level, larger = _kth(words, k)
    out = np.empty(k + BLOCK, np.int64)
    cut = _cut(words, level, k - larger) if level else 0  # entries equal to `level` are taken before this index
    found = _collect(words[:cut], level, ALL, 0, out, k)
    return out[: found + _collect(words[cut:], level + 1, ALL, cut, out[found:], k - found)]
