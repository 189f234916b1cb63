"""Static-model rANS over bytes: interleaved 32-bit states, renormalised by 16-bit words (Duda 2014, arXiv 1311.2540).

Plain meaning, for one state x, total M = 2^bits, symbol s with frequency f and start c, and a stack of words:
    encode, last symbol first:  if x >= f << (32 - bits): push x & 0xFFFF, x >>= 16;   x = (x // f) * M + c + x % f
    decode, first symbol first: slot = x % M, s = the symbol whose slots hold it;  x = f * (x // M) + slot - c;
                                if x < 2^16: x = x << 16 | pop
Symbol i uses state i % lanes. Every state starts the encoder at 2^16, so the decoder can check that it ends there.
Model tables go through IEEE additions, products and quotients in a fixed order only: both ends get the same integers.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fewbits.kernels.bits import high_product, leading_zeros, peek, put

U = np.uint64
LOW = 1 << 16  # states live in [LOW, 2^32)
MAX_LENGTH = 17  # bit length of the largest weight in a table, with room for rounding up


@njit(cache=True, nogil=True)
def normalise(weights, bits):
    """Return integer frequencies that sum to 2^bits: at least 1 where the weight is positive, near proportional.

    weights: (m,) float64, m <= 2^bits, not all zero. Returns (m,) int64. What rounding leaves is given or taken
    where it changes the code length least.
    """
    total = 0.0
    for w in weights:
        total += w
    room = 1 << bits
    frequency = np.zeros(len(weights), np.int64)
    left = room
    for s in range(len(weights)):
        if weights[s] > 0.0:
            frequency[s] = max(1, np.int64(weights[s] / total * room))
            left -= frequency[s]
    while left != 0:
        best, best_value = -1, 0.0
        for s in range(len(weights)):
            f = frequency[s]
            if left > 0 and f > 0:
                value = weights[s] / (f + 0.5)
                if best < 0 or value > best_value:
                    best, best_value = s, value
            elif left < 0 and f > 1:
                value = weights[s] / (f - 0.5)
                if best < 0 or value < best_value:
                    best, best_value = s, value
        step = 1 if left > 0 else -1
        frequency[best] += step
        left -= step
    return frequency


@njit(cache=True, nogil=True)
def round_weights(counts, mantissa):
    """Scale counts to at most 2^16 and round them to mantissa+1 leading bits.  # (m,) int64"""
    top = 1
    for c in counts:
        top = max(top, c)
    out = np.zeros(len(counts), np.int64)
    for s in range(len(counts)):
        if counts[s] > 0:
            w = counts[s] if top <= LOW else max(1, np.int64(float(counts[s]) / top * LOW))
            extra = 64 - np.int64(leading_zeros(U(w))) - mantissa - 1
            out[s] = w if extra <= 0 else ((w + (1 << (extra - 1))) >> extra) << extra
    return out


@njit(cache=True, nogil=True)
def write_weights(weights, mantissa, bits):
    """Write rounded weights: change of bit length as a zigzag gamma code, then leading bits; return bits used."""
    at, previous = 0, 0
    for w in weights:
        length = 64 - np.int64(leading_zeros(U(w)))
        step = length - previous
        previous = length
        code = U(2 * step if step > 0 else -2 * step + 1)  # 1 for no change
        size = 63 - np.int64(leading_zeros(code))
        at = put(bits, at + size, code, size + 1)
        if length > 1:
            low = min(length - 1, mantissa)
            at = put(bits, at, U((w >> (length - 1 - low)) & ((1 << low) - 1)), low)
    return at


@njit(cache=True, nogil=True)
def read_weights(bits, nbits, mantissa, out):
    """Read the table of write_weights; return bits used, or -1 when it is cut, all zero or out of range."""
    at, length, total = 0, 0, 0
    for s in range(len(out)):
        if at >= nbits:
            return -1
        size = np.int64(leading_zeros(peek(bits, at)))
        if size > 6 or at + 2 * size + 1 > nbits:
            return -1
        at += size
        code = np.int64(peek(bits, at) >> U(63 - size))
        at += size + 1
        length += -(code >> 1) if code & 1 else code >> 1
        if length < 0 or length > MAX_LENGTH:
            return -1
        w = np.int64(1 if length else 0)
        if length > 1:
            low = min(length - 1, mantissa)
            if at + low > nbits:
                return -1
            w = ((1 << low) | np.int64(peek(bits, at) >> U(64 - low))) << (length - 1 - low)
            at += low
        out[s] = w
        total += w
    return at if total > 0 else -1


@njit(cache=True, nogil=True)
def encode(data, frequency, bits, lanes, out):
    """Encode bytes in reverse into the end of `out` (uint16, len(data) + 8), states first; return the first index.

    Division by f is a product with ceil(2^64 / f), exact for states below 2^32; f = 1 is folded into the bias.
    """
    size = len(frequency)
    limit, inverse = np.zeros(size, np.uint64), np.zeros(size, np.uint64)
    bias, rest = np.zeros(size, np.uint64), np.zeros(size, np.uint64)
    start = 0
    for s in range(size):
        f = frequency[s]
        if f > 0:
            limit[s] = U(f) << U(32 - bits)
            inverse[s] = U(0xFFFFFFFFFFFFFFFF) // U(f) + U(1) if f > 1 else U(0xFFFFFFFFFFFFFFFF)
            bias[s] = U(start) if f > 1 else U(start + (1 << bits) - 1)
            rest[s] = U((1 << bits) - f)
            start += f
    states = np.full(4, LOW, np.uint64)
    p = len(out)
    whole = (len(data) & ~3) if lanes == 4 else 0
    for i in range(len(data) - 1, whole - 1, -1):
        s, row = data[i], i % lanes
        x = states[row]
        if x >= limit[s]:
            p -= 1
            out[p] = x & U(0xFFFF)
            x >>= U(16)
        states[row] = x + bias[s] + high_product(x, inverse[s]) * rest[s]
    x0, x1, x2, x3 = states[0], states[1], states[2], states[3]
    for i in range(whole - 4, -1, -4):
        four = data[i : i + 4]
        s = four[3]
        over = U(x3 >= limit[s])
        out[p - 1] = x3 & U(0xFFFF)  # stored always, used only on renormalisation: no branch to mispredict
        p -= np.int64(over)
        x3 >>= over << U(4)
        x3 += bias[s] + high_product(x3, inverse[s]) * rest[s]
        s = four[2]
        over = U(x2 >= limit[s])
        out[p - 1] = x2 & U(0xFFFF)
        p -= np.int64(over)
        x2 >>= over << U(4)
        x2 += bias[s] + high_product(x2, inverse[s]) * rest[s]
        s = four[1]
        over = U(x1 >= limit[s])
        out[p - 1] = x1 & U(0xFFFF)
        p -= np.int64(over)
        x1 >>= over << U(4)
        x1 += bias[s] + high_product(x1, inverse[s]) * rest[s]
        s = four[0]
        over = U(x0 >= limit[s])
        out[p - 1] = x0 & U(0xFFFF)
        p -= np.int64(over)
        x0 >>= over << U(4)
        x0 += bias[s] + high_product(x0, inverse[s]) * rest[s]
    states[0], states[1], states[2], states[3] = x0, x1, x2, x3
    for row in range(lanes - 1, -1, -1):
        out[p - 1] = states[row] & U(0xFFFF)
        out[p - 2] = states[row] >> U(16)
        p -= 2
    return p


@njit(cache=True, nogil=True)
def decode(words, frequency, bits, lanes, out):
    """Decode uint16 words to `out` (bytes); return the words used, or -1 for words that no encoder writes."""
    if len(words) < 2 * lanes:
        return -1
    slots = np.zeros(1 << bits, np.uint8)
    model = np.zeros(256, np.uint32)  # frequency << 16 | start
    start = 0
    for s in range(len(frequency)):
        f = frequency[s]
        if f > 0:
            slots[start : start + f] = s
            model[s] = np.uint32((f << 16) | start)
            start += f
    states = np.full(4, LOW, np.uint64)
    for row in range(lanes):
        states[row] = (U(words[2 * row]) << U(16)) | U(words[2 * row + 1])
        if states[row] < U(LOW):
            return -1
    p, n, i = 2 * lanes, len(out), 0
    down, mask = U(bits), U((1 << bits) - 1)
    x0, x1, x2, x3 = states[0], states[1], states[2], states[3]
    if lanes == 4:
        while i + 4 <= n and p + 4 <= len(words):
            four = out[i : i + 4]
            slot = x0 & mask
            s = slots[slot]
            m = U(model[s])
            four[0] = s
            x0 = (m >> U(16)) * (x0 >> down) + slot - (m & U(0xFFFF))
            under = U(x0 < U(LOW))
            x0 = (x0 << (under << U(4))) | (U(words[p]) & (U(0) - under))
            p += np.int64(under)
            slot = x1 & mask
            s = slots[slot]
            m = U(model[s])
            four[1] = s
            x1 = (m >> U(16)) * (x1 >> down) + slot - (m & U(0xFFFF))
            under = U(x1 < U(LOW))
            x1 = (x1 << (under << U(4))) | (U(words[p]) & (U(0) - under))
            p += np.int64(under)
            slot = x2 & mask
            s = slots[slot]
            m = U(model[s])
            four[2] = s
            x2 = (m >> U(16)) * (x2 >> down) + slot - (m & U(0xFFFF))
            under = U(x2 < U(LOW))
            x2 = (x2 << (under << U(4))) | (U(words[p]) & (U(0) - under))
            p += np.int64(under)
            slot = x3 & mask
            s = slots[slot]
            m = U(model[s])
            four[3] = s
            x3 = (m >> U(16)) * (x3 >> down) + slot - (m & U(0xFFFF))
            under = U(x3 < U(LOW))
            x3 = (x3 << (under << U(4))) | (U(words[p]) & (U(0) - under))
            p += np.int64(under)
            i += 4
    states[0], states[1], states[2], states[3] = x0, x1, x2, x3
    while i < n:
        row = i % lanes
        x = states[row]
        slot = x & mask
        s = slots[slot]
        m = U(model[s])
        out[i] = s
        x = (m >> U(16)) * (x >> down) + slot - (m & U(0xFFFF))
        if x < U(LOW):
            if p >= len(words):
                return -1
            x = (x << U(16)) | U(words[p])
            p += 1
        states[row] = x
        i += 1
    for row in range(4):
        if states[row] != U(LOW):
            return -1
    return p
