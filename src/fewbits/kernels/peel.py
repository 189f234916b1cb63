"""Peeling: sort positions by the rank of their level, and count each among the positions that remain.

Plain meaning (tests hold the kernels to loops that say it):
    peel(positions, ranks): for each rank in turn, its positions counted among those not of an earlier rank.
Peeling halves the ranks as a wavelet tree does: O(positions * log ranks) instead of O(positions * ranks).
"""

from __future__ import annotations

import numpy as np
from numba import njit

U = np.uint64


@njit(cache=True, nogil=True)
def collect(symbols, eights, common, rank, positions, ranks):
    """Collect positions and ranks of all symbols but `common`; `eights` views the first 8*len(eights) symbols as words.

    A word of eight common symbols is skipped at once. Both outputs need room for one more entry.
    """
    pattern = U(common) * U(0x0101010101010101)
    k = 0
    for w in range(len(eights)):
        if eights[w] != pattern:
            eight = symbols[8 * w : 8 * w + 8]
            for j in range(8):
                s = eight[j]
                positions[k] = 8 * w + j
                ranks[k] = rank[s]
                k += s != common
    for i in range(8 * len(eights), len(symbols)):
        s = symbols[i]
        positions[k] = i
        ranks[k] = rank[s]
        k += s != common
    return k


@njit(cache=True, nogil=True)
def peel(positions, ranks, starts, spare, spare_ranks):
    """Sort by rank, stably, and count each rank's positions among those of no earlier rank.

    starts[r] is the number of positions of rank below r (one entry more than ranks). The four arrays are
    overwritten; returns the one that holds the result.
    """
    count = len(starts) - 1
    width = 1
    while width < count:
        width *= 2
    while width > 1:
        half = width // 2
        for low in range(0, count, width):
            middle = min(low + half, count)
            first, second, stop = starts[low], starts[middle], starts[min(low + width, count)]
            here, here_ranks = positions[first:stop], ranks[first:stop]
            left, left_ranks = spare[first:stop], spare_ranks[first:stop]
            a, b = 0, second - first
            for i in range(stop - first):
                r, p = here_ranks[i], here[i]
                later = np.int64(r >= middle)  # arithmetic, because the branch cannot be predicted
                to = a + later * (b - a)
                left[to], left_ranks[to] = p - later * a, r
                a, b = a + 1 - later, b + later
        positions, spare = spare, positions
        ranks, spare_ranks = spare_ranks, ranks
        width = half
    return positions


@njit(cache=True, nogil=True)
def unpeel(positions, ranks, starts, spare, spare_ranks):
    """Undo `peel`: merge rank by rank into ascending positions; returns which (positions, ranks) hold them."""
    count = len(starts) - 1
    half = 1
    while half < count:
        for low in range(0, count, 2 * half):
            first = starts[low]
            second, stop = starts[min(low + half, count)], starts[min(low + 2 * half, count)]
            a, b, i = first, second, first
            while a < second and b < stop:
                early, late = positions[a], positions[b] + (a - first)
                first_wins = early <= late
                spare[i] = early if first_wins else late
                spare_ranks[i] = ranks[a] if first_wins else ranks[b]
                a += first_wins
                b += not first_wins
                i += 1
            for j in range(a, second):
                spare[i], spare_ranks[i] = positions[j], ranks[j]
                i += 1
            for j in range(b, stop):
                spare[i], spare_ranks[i] = positions[j] + (second - first), ranks[j]
                i += 1
        positions, spare = spare, positions
        ranks, spare_ranks = spare_ranks, ranks
        half *= 2
    return positions, ranks


@njit(cache=True, nogil=True)
def place(positions, ranks, levels, out):
    """Set out[positions] = levels[ranks]; the caller guarantees that positions fit."""
    for i in range(len(positions)):
        out[positions[i]] = levels[ranks[i]]
