"""Golomb-coded runs between positions, and runs as bucket symbols with raw low bits.

Plain meaning (tests hold the kernels to loops that say it):
    Golomb code of a run g with parameter M: g // M zeros, a one, then g % M in truncated binary.
    Bucket of a run: its bit length and `fine` bits after its leading one; the bits below are raw.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fewbits.kernels.bits import leading_zeros, peek
from fewbits.kernels.models import block_bits, length

U = np.uint64


@njit(cache=True, nogil=True)
def golomb_encode(positions, starts, parameters, bits):
    """Encode the runs between ascending positions in each segment starts[t]:starts[t+1]; return bits used."""
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
            quotient = np.int64(run * inverse)  # the error is at most one, because runs are below 2^52
            rest = run - quotient * m
            if rest < 0:
                quotient, rest = quotient - 1, rest + m
            elif rest >= m:
                quotient, rest = quotient + 1, rest - m
            code, size = (rest, b) if rest < short else (rest + short, b + 1)
            code |= 1 << (size - 1)  # this bit ends the unary part
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
    """Decode golomb_encode; positions of segment t must be below sizes[t]. Return bits used or -1."""
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
            while zeros == 64:  # a long run of zeros, 64 bits at a time
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
    """Return the length of golomb_encode for one segment, in bits."""
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
    """Return the raw bits of a run: all but the leading one and `fine` more."""
    return max(0, 63 - np.int64(leading_zeros(U(run) | U(1))) - fine)


@njit(cache=True, nogil=True)
def bucket_counts(positions, fine):
    """Count the buckets of the runs between positions.  # (256,) int64"""
    counts = np.zeros(256, np.int64)
    expected = 0
    for i in range(len(positions)):
        run = positions[i] - expected
        expected = positions[i] + 1
        spare = spare_bits(run, fine)
        counts[(spare << fine) + (run >> spare)] += 1
    return counts


@njit(cache=True, nogil=True)
def form_bits(positions, m, fine, geometric, terms, tag, out):
    """Estimate all forms of a support at once: runs, buckets under `geometric`, buckets of 0 to `fine` fine bits.

    m: the Golomb parameter; geometric: (buckets,) frequencies; terms: see `models.block_bits`; tag: bits of a block's.
    out: (fine + 3,) float64.
    """
    counts = bucket_counts(positions, fine)[: len(geometric)]
    out[0] = golomb_bits(positions, m)
    raw = 0
    for b in range(len(counts)):
        raw += counts[b] * max(0, (b >> fine) - 1)
    out[1] = raw + (length(counts, geometric) + terms[2])
    for fewer in range(fine + 1):
        merged, raw = np.zeros(max(17, len(counts)), np.int64), 0
        used = 0
        for b in range(len(counts)):
            spare = max(0, (b >> fine) - 1)
            run = (b - (spare << fine)) << spare  # the shortest of the bucket
            spare = spare_bits(run, fewer)
            into = (spare << fewer) + (run >> spare)
            merged[into] += counts[b]
            raw += counts[b] * spare
            used = max(used, into + 1)
        out[2 + fewer] = raw + (block_bits(merged[: max(17, used)], len(positions), terms) + tag)


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
    """Sum the raw bits of these buckets."""
    total = 0
    for i in range(len(symbols)):
        total += max(0, (np.int64(symbols[i]) >> fine) - 1)
    return total


@njit(cache=True, nogil=True)
def bucket_decode(symbols, fine, bits, n, positions):
    """Join buckets and raw bits; return False when a position reaches n. The words hold bucket_bits bits."""
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
