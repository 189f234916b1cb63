"""Bit fields, joined bytes and histograms.

NumPy meaning, with `u` the symbols and `w` their width:
    pack(u, w)        np.packbits(np.unpackbits(u.astype(">u8").view(np.uint8).reshape(-1, 8), axis=1)[:, 64 - w:])
    join(u, b, k)     u.reshape(-1, k) @ b ** np.arange(k)[::-1]            (the last group is filled with `pad`)
    histogram(u)      np.bincount(u, minlength=size)
Bit strings live in uint64 words, most significant bit first; `words` and `tobytes` convert.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

U = np.uint64


def _leading_zeros(context, x):
    """Count the zero bits above the highest one bit of a uint64; 64 for zero."""

    def code(context, builder, signature, arguments):
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), code


def _high_product(context, a, b):
    """Return the upper 64 bits of the 128-bit product of two uint64."""

    def code(context, builder, signature, arguments):
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(x, wide) for x in arguments))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), code


leading_zeros: Any = intrinsic(_leading_zeros)
high_product: Any = intrinsic(_high_product)


def words(data: np.ndarray) -> np.ndarray:
    """Convert bytes to big-endian 64-bit words, plus two zero words so that `peek` stays in range.  # uint64"""
    padded = np.zeros(8 * (-(-len(data) // 8) + 2), np.uint8)
    padded[: len(data)] = data
    return padded.view(">u8").astype(np.uint64)


def tobytes(bits: np.ndarray, nbits: int) -> np.ndarray:
    """Return the first ceil(nbits/8) bytes of words.  # uint8"""
    return bits[: -(-nbits // 64)].astype(">u8").view(np.uint8)[: -(-nbits // 8)]


@njit(cache=True, nogil=True, inline="always")
def put(bits, at, value, n):
    """Write the low `n` (0..64) bits of `value` at bit `at` of zeroed words; return at + n."""
    if n > 0:
        i, room = at >> 6, 64 - (at & 63)
        if n <= room:
            bits[i] |= value << U(room - n)
        else:
            bits[i] |= value >> U(n - room)
            bits[i + 1] |= value << U(64 - n + room)
    return at + n


@njit(cache=True, nogil=True, inline="always")
def peek(bits, at):
    """Return the 64 bits from bit `at` on; the caller bounds `at` below 64 * (len(bits) - 1)."""
    i, s = at >> 6, U(at & 63)
    return (bits[i] << s) | ((bits[i + 1] >> U(1)) >> (U(63) - s))


@njit(cache=True, nogil=True)
def pack(symbols, width, bits):
    """Pack symbols of `width` (1..64) bits into zeroed words."""
    acc, free, k = U(0), 64, 0
    for i in range(len(symbols)):
        value = U(symbols[i])
        if width < free:
            free -= width
            acc |= value << U(free)
        else:
            over = width - free
            bits[k] = acc | (value >> U(over))
            k += 1
            free = 64 - over
            acc = (value << U(free)) if over else U(0)
    if free < 64:
        bits[k] = acc


@njit(cache=True, nogil=True)
def unpack(bits, width, out):
    """Unpack len(out) fields of `width` (1..64) bits; the words need one word more than the fields."""
    down = U(64 - width)
    for i in range(len(out)):
        out[i] = peek(bits, i * width) >> down


@njit(cache=True, nogil=True)
def join(symbols, low, base, digits, pad, out):
    """Write `digits` uint8 symbols, less `low`, as one byte in base `base`, the first most significant.

    Returns the largest symbol less `low`, modulo 256: base or more when one was out of range.
    """
    b, lo, most = np.uint8(base), np.uint8(low), np.uint8(0)
    for i in range(len(symbols)):  # by itself, so that it is done 64 at a time
        most = max(most, np.uint8(symbols[i] - lo))
    whole = len(symbols) // digits
    if digits == 2:
        pairs = symbols[: 2 * whole]
        for i in range(whole):
            out[i] = np.uint8(pairs[2 * i] - lo) * b + np.uint8(pairs[2 * i + 1] - lo)
    elif digits == 5:
        for i in range(whole):
            five = symbols[5 * i : 5 * i + 5]
            value = np.uint8(five[0] - lo) * b + np.uint8(five[1] - lo)
            value = (value * b + np.uint8(five[2] - lo)) * b + np.uint8(five[3] - lo)
            out[i] = value * b + np.uint8(five[4] - lo)
    else:
        for i in range(whole):
            value = np.uint8(0)
            for j in range(digits):
                value = value * b + np.uint8(symbols[i * digits + j] - lo)
            out[i] = value
    if whole < len(out):
        value = np.uint8(0)
        for j in range(whole * digits, whole * digits + digits):
            value = value * b + (np.uint8(symbols[j] - lo) if j < len(symbols) else np.uint8(pad))
        out[whole] = value
    return most


@njit(cache=True, nogil=True)
def lookup(data, table, out):
    """Set out = table[data]; an item holds all digits of one byte."""
    entries = table[:256]
    for i in range(len(out)):
        out[i] = entries[data[i]]


@njit(cache=True, nogil=True)
def lookup_rows(data, table, out):
    """Look up rows of digits whose number fills no machine word; the table has one row per byte."""
    digits = table.shape[1]
    for i in range(len(data)):
        row, target = table[data[i]], out[i * digits : i * digits + digits]
        for j in range(len(target)):  # the last group may be cut short
            target[j] = row[j]


@njit(cache=True, nogil=True)
def histogram(symbols, size):
    """Count each symbol below `size`, in four tables, so that equal neighbours do not wait.  # (size,) int64"""
    tables = np.zeros((4, size), np.uint32)
    a, b, c, d = tables[0], tables[1], tables[2], tables[3]
    whole = len(symbols) & ~3
    for i in range(0, whole, 4):
        four = symbols[i : i + 4]
        a[four[0]] += np.uint32(1)
        b[four[1]] += np.uint32(1)
        c[four[2]] += np.uint32(1)
        d[four[3]] += np.uint32(1)
    for i in range(whole, len(symbols)):
        a[symbols[i]] += np.uint32(1)
    return tables.astype(np.int64).sum(axis=0)
