"""Models of bytes: which table of weights makes a block shortest. One call in place of a dozen small ones.

In NumPy, with `f` the frequencies that follow from the rounded weights of the counts, see rans.py:

    length    counts[counts > 0] @ np.log2(f.sum() / f[counts > 0])
    digits    sum(np.bincount(column, counts, levels) for column in table.T)
    products  the weights of a byte's digits, multiplied in their order
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from fewbits.kernels.rans import normalise, read_weights, round_weights, write_weights


@njit(cache=True, nogil=True)
def length(counts, frequency):
    """Estimate the rANS code of symbols with these counts, in bits, without states."""
    total = 0
    for f in frequency:
        total += f
    bits = 0.0
    for s in range(len(counts)):
        if counts[s] > 0:
            bits += counts[s] * math.log2(total / frequency[s])
    return bits


@njit(cache=True, nogil=True)
def digit_counts(counts, table, levels):
    """Count the digits of bytes with these counts; `table` has the digits of each byte.  # (levels,) int64"""
    out = np.zeros(levels, np.int64)
    for s in range(len(counts)):
        for digit in table[s]:
            out[digit] += counts[s]
    return out


@njit(cache=True, nogil=True)
def joint(counts, mantissa, precision, words, frequency):
    """Weigh each byte: write the weights to zeroed words, and set frequencies that sum to 2^precision; return bits."""
    weights = round_weights(counts, mantissa)
    frequency[:] = normalise(weights.astype(np.float64), precision)
    return write_weights(weights, mantissa, words)


@njit(cache=True, nogil=True)
def product(counts, table, levels, mantissa, precision, words, frequency):
    """Weigh each digit, as `joint` weighs bytes. The order of products is fixed, so that every machine rounds alike."""
    weights = round_weights(digit_counts(counts, table, levels), mantissa)
    frequency[:] = normalise(products(weights, table, len(counts)), precision)
    return write_weights(weights, mantissa, words)


@njit(cache=True, nogil=True)
def products(weights, table, size):
    """Multiply the weights of each byte's digits.  # (size,) float64"""
    shares = np.empty(size, np.float64)
    for s in range(size):
        share = np.float64(weights[table[s, 0]])
        for digit in table[s, 1:]:
            share *= np.float64(weights[digit])
        shares[s] = share
    return shares


@njit(cache=True, nogil=True)
def read(words, nbits, count, table, digits, mantissa, precision, frequency):
    """Read a table of `count` weights, of digits or of bytes, and set the frequencies; return bits used, or -1."""
    weights = np.zeros(count, np.int64)
    used = read_weights(words, nbits, mantissa, weights)
    if used >= 0:
        shares = products(weights, table, len(frequency)) if digits else weights.astype(np.float64)
        frequency[:] = normalise(shares, precision)
    return used


@njit(cache=True, nogil=True)
def cheapest(counts, table, levels, mantissas, precision, words, frequency):
    """Weigh bytes, and digits where a byte has several; return (0 or 1, bits of that table, bits of table and code).

    words: (2, w) zeroed uint64; frequency: (2, m) int64. The first row is of bytes, the second of digits.
    """
    size = joint(counts, mantissas[0], precision, words[0], frequency[0])
    which, bits = 0, length(counts, frequency[0]) + 8 * ((size + 7) // 8)
    if table.shape[1] > 1:
        other = product(counts, table, levels, mantissas[1], precision, words[1], frequency[1])
        found = length(counts, frequency[1]) + 8 * ((other + 7) // 8)
        if found < bits:
            which, size, bits = 1, other, found
    return which, size, bits


@njit(cache=True, nogil=True)
def block_bits(counts, n, terms):
    """Estimate the length of n > 0 symbols with these counts as a block without its tag.

    terms: the mantissa of weights, the bits of frequencies, and those of the rANS states.
    """
    mantissa, precision, states = terms
    most = 0
    for c in counts:
        most = max(most, c)
    if most == n:
        return 8.0
    words, frequency = np.zeros(len(counts) // 2 + 2, np.uint64), np.empty(len(counts), np.int64)
    size = joint(counts, mantissa, precision, words, frequency)
    return min(8.0 * n, length(counts, frequency) + states + 8 * ((size + 7) // 8))
