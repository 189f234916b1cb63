"""Elias gamma and delta codes of levels.

Plain meaning (tests hold the kernels to loops that say it):
    gamma of x >= 1: floor(log2 x) zeros, then x in binary.
    delta of x >= 1: gamma of its bit length, then its bits after the leading one.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fewbits.kernels.bits import leading_zeros, peek, put

U = np.uint64


@njit(cache=True, nogil=True, inline="always")
def natural(symbol, low, high):
    """Map a level to a positive integer, 1 for zero, or for the end nearest to zero when the range has one sign."""
    value = np.int64(symbol) + low
    if low >= 0:
        return value - low + 1
    if high <= 0:
        return high - value + 1
    return 2 * value + 1 if value >= 0 else -2 * value


@njit(cache=True, nogil=True)
def elias_bits(symbols, low, high, delta):
    """Sum the lengths of the Elias codes of all symbols, in bits."""
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
