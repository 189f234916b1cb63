"""Elias codes, Golomb-coded runs, and the peeling of levels off a position list.

Plain meaning (tests hold the kernels to loops that say it):
    Elias gamma of x >= 1: floor(log2 x) zeros, then x in binary; delta: gamma of its bit length, then the lower bits.
    Golomb of a run g with parameter M: g // M zeros, a one, then g % M in truncated binary.
    peel(positions, rank): for each rank in turn, its positions counted among those not of an earlier rank.
Peeling halves the ranks as a wavelet tree does: O(positions * log ranks) instead of O(positions * ranks).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fewbits.kernels.bits import leading_zeros, peek, put

U = np.uint64


@njit(cache=True, nogil=True, inline="always")
def natural(symbol, low, high):
    """A level as a positive integer: zero shortest where the range has both signs, else the end nearest to zero."""
    value = np.int64(symbol) + low
    if low >= 0:
        return value - low + 1
    if high <= 0:
        return high - value + 1
    return 2 * value + 1 if value >= 0 else -2 * value


@njit(cache=True, nogil=True)
def elias_bits(symbols, low, high, delta):
    """Total length of the Elias codes of all symbols, in bits."""
    total = 0
    for i in range(len(symbols)):
        n = 63 - np.int64(leading_zeros(U(natural(symbols[i], low, high))))
        total += n + 2 * (63 - np.int64(leading_zeros(U(n + 1)))) + 1 if delta else 2 * n + 1
    return total


@njit(cache=True, nogil=True)
def elias_encode(symbols, low, high, delta, bits):
    """Write the Elias codes of symbols (offsets from low, at most 2^32 of them) into zeroed words."""
    at = 0
    for i in range(len(symbols)):
        x = U(natural(symbols[i], low, high))
        n = 63 - np.int64(leading_zeros(x))
        if delta:
            size = 63 - np.int64(leading_zeros(U(n + 1)))
            at = put(bits, at + size, U(n + 1), size + 1)
            at = put(bits, at, x ^ (U(1) << U(n)), n)
        else:
            at = put(bits, at + n, x, n + 1)


@njit(cache=True, nogil=True)
def elias_decode(bits, nbits, low, high, delta, out):
    """Fill out with symbols; return the bits used, or -1 when a code runs past the end or out of the range."""
    at = 0
    for i in range(len(out)):
        if at >= nbits:
            return -1
        zeros = np.int64(leading_zeros(peek(bits, at)))
        if zeros > (5 if delta else 33) or at + 2 * zeros + 1 > nbits:
            return -1
        at += zeros
        x = np.int64(peek(bits, at) >> U(63 - zeros))
        at += zeros + 1
        if delta:
            n = x - 1
            if n > 33 or at + n > nbits:
                return -1
            if n > 0:
                x = np.int64((U(1) << U(n)) | (peek(bits, at) >> U(64 - n)))
            at += n
        if low >= 0:
            value = x - 1 + low
        elif high <= 0:
            value = high - x + 1
        else:
            value = (x - 1) >> 1 if x & 1 else -(x >> 1)
        if value < low or value > high:
            return -1
        out[i] = value - low
    return at


@njit(cache=True, nogil=True)
def collect(symbols, eights, common, rank, positions, ranks):
    """Positions and ranks of all symbols but `common`; `eights` views the first 8*len(eights) symbols as words.

    A word of eight common symbols is passed over at once. Both outputs have one entry to spare.
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
                later = np.int64(r >= middle)  # arithmetic instead of a branch that nobody can predict
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
    """out[positions] = levels[ranks]; the caller vouches that positions fit."""
    for i in range(len(positions)):
        out[positions[i]] = levels[ranks[i]]


@njit(cache=True, nogil=True)
def golomb_encode(positions, starts, parameters, bits):
    """Code the runs between ascending positions, stretch starts[t]:starts[t+1] by stretch; return bits used."""
    filled, free, acc = 0, 64, U(0)
    for t in range(len(starts) - 1):
        m = parameters[t]
        b = 64 - np.int64(leading_zeros(U(m - 1)))
        short = (1 << b) - m
        inverse = 1.0 / m
        expected = 0
        for i in range(starts[t], starts[t + 1]):
            run = positions[i] - expected
            expected = positions[i] + 1
            quotient = np.int64(run * inverse)  # at most one off: runs are below 2^52
            rest = run - quotient * m
            if rest < 0:
                quotient, rest = quotient - 1, rest + m
            elif rest >= m:
                quotient, rest = quotient + 1, rest - m
            code, size = (rest, b) if rest < short else (rest + short, b + 1)
            code |= 1 << (size - 1)  # the one that ends the unary part
            while quotient >= free:
                bits[filled] = acc
                filled, quotient, free, acc = filled + 1, quotient - free, 64, U(0)
            free -= quotient + size
            if free > 0:
                acc |= U(code) << U(free)
            else:
                bits[filled] = acc | (U(code) >> U(-free))
                filled += 1
                acc = (U(code) << U(63 + free)) << U(1)  # free may be 0
                free += 64
    if free < 64:
        bits[filled] = acc
    return 64 * (filled + 1) - free


@njit(cache=True, nogil=True)
def golomb_decode(bits, nbits, starts, parameters, sizes, positions):
    """Read what golomb_encode wrote; positions of stretch t stay below sizes[t]. Returns bits used or -1."""
    at = 0
    for t in range(len(starts) - 1):
        m, size = parameters[t], sizes[t]
        b = 64 - np.int64(leading_zeros(U(m - 1)))
        short = (1 << b) - m
        position = -1
        for i in range(starts[t], starts[t + 1]):
            base = position + 1
            if at >= nbits:
                return -1
            window = peek(bits, at)
            zeros = np.int64(leading_zeros(window))
            while zeros == 64:  # a long run of zeros: 64 more at a time
                at += 64
                base += 64 * m
                if at >= nbits or base >= size:
                    return -1
                window = peek(bits, at)
                zeros = np.int64(leading_zeros(window))
            at += zeros + 1
            rest = 0
            if b > 0:
                window = peek(bits, at) if at < nbits else U(0)
                rest = np.int64((window >> U(1)) >> U(64 - b))
                if rest < short:
                    at += b - 1
                else:
                    rest = np.int64(window >> U(64 - b)) - short
                    at += b
            position = base + zeros * m + rest
            if at > nbits or position >= size:
                return -1
            positions[i] = position
    return at


@njit(cache=True, nogil=True)
def golomb_bits(positions, m):
    """What golomb_encode would use for one stretch, in bits."""
    b = 64 - np.int64(leading_zeros(U(m - 1)))
    short = (1 << b) - m
    inverse = 1.0 / m
    expected, total = 0, 0
    for i in range(len(positions)):
        run = positions[i] - expected
        expected = positions[i] + 1
        quotient = np.int64(run * inverse)
        rest = run - quotient * m
        if rest < 0:
            quotient, rest = quotient - 1, rest + m
        elif rest >= m:
            quotient, rest = quotient + 1, rest - m
        total += quotient + (b if rest < short else b + 1)
    return total


@njit(cache=True, nogil=True, inline="always")
def spare_bits(run, fine):
    """Bits of a run below its bucket: all but the leading one and `fine` more."""
    return max(0, 63 - np.int64(leading_zeros(U(run) | U(1))) - fine)


@njit(cache=True, nogil=True)
def bucket_counts(positions, fine):
    """How often each bucket occurs among the runs between positions.  # (256,) int64"""
    counts = np.zeros(256, np.int64)
    expected = 0
    for i in range(len(positions)):
        run = positions[i] - expected
        expected = positions[i] + 1
        spare = spare_bits(run, fine)
        counts[(spare << fine) + (run >> spare)] += 1
    return counts


@njit(cache=True, nogil=True)
def bucket_encode(positions, fine, symbols, bits):
    """Split the runs between positions into bucket symbols and raw low bits; return the raw bits used."""
    expected, filled, free, acc = 0, 0, 64, U(0)
    for i in range(len(positions)):
        run = positions[i] - expected
        expected = positions[i] + 1
        spare = spare_bits(run, fine)
        symbols[i] = (spare << fine) + (run >> spare)
        value = U(run & ((1 << spare) - 1))
        free -= spare
        if free > 0:
            acc |= value << U(free)
        else:
            bits[filled] = acc | (value >> U(-free))
            filled += 1
            acc = (value << U(63 + free)) << U(1)  # free may be 0
            free += 64
    bits[filled] = acc
    return 64 * (filled + 1) - free


@njit(cache=True, nogil=True)
def bucket_bits(symbols, fine):
    """Raw bits that belong to these buckets."""
    total = 0
    for i in range(len(symbols)):
        total += max(0, (np.int64(symbols[i]) >> fine) - 1)
    return total


@njit(cache=True, nogil=True)
def bucket_decode(symbols, fine, bits, n, positions):
    """Put buckets and raw bits together again; False when a position reaches n. The words hold bucket_bits bits."""
    at, position = 0, -1
    for i in range(len(symbols)):
        symbol = np.int64(symbols[i])
        spare = max(0, (symbol >> fine) - 1)
        run = symbol - (spare << fine)
        if spare > 0:
            if spare > 40:
                return False
            run = (run << spare) | np.int64(peek(bits, at) >> U(64 - spare))
            at += spare
        position += 1 + run
        if position >= n:
            return False
        positions[i] = position
    return True
