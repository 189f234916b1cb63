"""The largest entries of each chunk of a vector, in one pass.

In NumPy, with `select.largest`:

    largest(x, chunk, k, last)   starts = range(0, len(x), chunk)
                                 np.concatenate([i + select.largest(x[i : i + chunk], k) for i in starts])

where a shorter chunk at the end gives its `last` largest. Magnitudes are compared as in `select`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fewbits.errors import LocalError
from fewbits.kernels.select import MASK, ONE, ONES, TOP, ZERO, read_only

LOWER = 3 << 18  # about 8% below the last chunk's threshold, as a difference of float32 words
BINS = 256  # of the search among a chunk's candidates


def largest(x: np.ndarray, chunk: int, k: int, last: int) -> np.ndarray:
    """Find the k largest |x| of each chunk, ties to the lower index, zeros never.  # (n,) float32 -> int64 ascending

    A chunk's threshold is guessed from the one before it, and the choice is made among the entries above the guess.
    Where they are too few, all entries of the chunk are candidates. `last` is k for a shorter chunk at the end. Raises
    LocalError unless 1 <= chunk and 0 <= k, last <= chunk.
    """
    words = read_only(x, np.float32).view(np.uint32)
    if chunk < 1 or not 0 <= k <= chunk or not 0 <= last <= chunk:
        raise LocalError(f"chunks: need chunk >= 1 and 0 <= k <= chunk; got chunk={chunk}, k={k}, last={last}")
    out = np.empty(len(words) // chunk * k + last, np.int64)
    return out[: int(_largest(words, int(chunk), int(k), int(last), out))]


@njit(cache=True, nogil=True)
def _largest(words, size, k, last, out):
    room = (min(size, len(words)) + 7) // 8 * 8
    flags, places, sizes = np.zeros(room, np.uint8), np.empty(room, np.int64), np.empty(room, np.uint32)
    counts = np.empty(BINS, np.int64)
    done, level = 0, np.int64(1)
    for start in range(0, len(words), size):
        chunk = words[start : start + size]
        wanted = k if len(chunk) == size else last
        found = _candidates(chunk, max(np.int64(1), level - LOWER), flags, places, sizes)
        if found < wanted and level - LOWER > 1:
            found = _candidates(chunk, np.int64(1), flags, places, sizes)
        if found <= wanted:
            level = np.int64(1)
            for i in range(found):
                out[done + i] = start + places[i]
            done += found
        elif wanted > 0:
            level, larger = _kth(sizes[:found], wanted, counts)
            equal, threshold = wanted - larger, np.uint32(level)
            for i in range(found):
                tie = sizes[i] == threshold
                if sizes[i] > threshold or (tie and equal > 0):
                    out[done] = start + places[i]
                    done += 1
                    equal -= np.int64(tie)
    return done


@njit(cache=True, nogil=True)
def _candidates(chunk, low, flags, places, sizes):
    """Collect places and sizes of the entries of size `low` and above; return how many."""
    low = np.uint32(low)
    eights = flags.view(np.uint64)
    flags[len(chunk) :] = 0
    for j in range(len(chunk)):
        flags[j] = np.uint8(np.uint32(chunk[j] & MASK) >= low)
    count = 0
    for j in range(len(eights)):
        hits = eights[j]
        while hits != ZERO:
            below = (hits & (~hits + ONE)) - ONE & ONES  # a one for each byte below the lowest hit
            place = 8 * j + np.int64((below * ONES) >> TOP)  # their number, in the top byte
            places[count] = place
            sizes[count] = chunk[place] & MASK
            count += 1
            hits &= hits - ONE
    return count


@njit(cache=True, nogil=True)
def _kth(sizes, k, counts):
    """Return the k-th largest size (1 <= k <= n) and the number of larger ones, by radix select."""
    low, high, larger = np.int64(0), np.int64(MASK), 0
    while True:
        least, most = high, low
        for i in range(len(sizes)):
            size = np.int64(sizes[i])
            if low <= size <= high:
                least, most = min(least, size), max(most, size)
        low, high = least, most
        if low == high:
            return low, larger
        shift = 0
        while (high - low) >> shift >= BINS:
            shift += 1
        counts[:] = 0
        for i in range(len(sizes)):
            size = np.int64(sizes[i])
            if low <= size <= high:
                counts[(size - low) >> shift] += 1
        b = (high - low) >> shift
        while larger + counts[b] < k:
            larger += counts[b]
            b -= 1
        low, high = low + (b << shift), min(high, low + ((b + 1) << shift) - 1)
