"""Dithered quantisation with one scale per bucket of the vector.

Stretch j is x[offsets[j]:offsets[j+1]]; offsets start at 0 and end at n. In NumPy, for one stretch:

    max_abs   np.abs(x).max(initial=0)
    norms     np.sqrt(np.sum(np.float64(x) ** 2)), at most the largest float32
    mean_abs  np.abs(np.float64(x)).mean(), 0 for an empty stretch
    dither    np.sign(x) * np.minimum(s, np.floor(s * np.abs(x) / scale + u)), 0 where scale is 0
    undither  levels * np.float32(np.float64(scale) * factor / s)
    signed    np.where(bits, -scale, scale)

u is uniform in [0, 1), a hash of (seed, place): it depends on nothing else, not on the stretches nor on how the work
is cut. Sums go to LANES partial sums whose order is fixed, so that the result is the same on every machine.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

from fewbits.errors import LocalError
from fewbits.kernels.select import read_only

MASK = np.int32(0x7FFFFFFF)  # a float32 without its sign
LARGEST = float(np.finfo(np.float32).max)
LANES = 32  # partial sums side by side
FRACTION = 2.0**24  # eight-bit levels are computed as integers with 24 bits after the point


def max_abs(x: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Compute the largest |x| of each bucket; 0 for an empty one.  # (n,) float32, (m+1,) int64 -> (m,) float32"""
    x, offsets = stretches(x, np.float32, offsets)
    return _max_abs(x.view(np.int32), offsets).view(np.float32)


def norms(x: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Compute the 2-norm of each bucket, summed in float64, at most the largest float32.  # (m,) float32"""
    x, offsets = stretches(x, np.float32, offsets)
    return np.minimum(np.sqrt(_sums(x, offsets, 2)), LARGEST).astype(np.float32)


def mean_abs(x: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Compute the mean |x| of each bucket, summed in float64; 0 for an empty one.  # (m,) float32"""
    x, offsets = stretches(x, np.float32, offsets)
    return (_sums(x, offsets, 1) / np.maximum(np.diff(offsets), 1)).astype(np.float32)


def dither(x: np.ndarray, offsets: np.ndarray, scales: np.ndarray, s: int, seed: int) -> np.ndarray:
    """Quantise to levels in [-s, s]: sign(x) * min(s, floor(s*|x|/scale + u)).  # (n,) int8 when s <= 127, else int16

    Unbiased where |x| <= scale: |E level * scale/s - x| <= 2^-16 of a step scale/s (Alistarh et al. 2017, QSGD, section
    3.1; the noise has 24 bits and is a hash of `seed`, a 64-bit word, and the place). Raises LocalError unless
    1 <= s <= 32767 and there is one scale per stretch.
    """
    x, offsets = stretches(x, np.float32, offsets)
    scales = one_each(scales, offsets)
    keys = _keys(int(seed))
    if not 1 <= s <= 32767:
        raise LocalError(f"dither: s must be in 1..32767; got {s}")
    loop, levels = (_dither8, np.int8) if s <= 127 else (_dither16, np.int16)
    out = np.empty(len(x), levels)
    loop(out, x, offsets, scales, int(s), *keys)
    return out


def undither(levels: np.ndarray, offsets: np.ndarray, scales: np.ndarray, s: int, factor: float) -> np.ndarray:
    """Dequantise: levels * (scale * factor / s), the step rounded once to float32 and so small that s steps are finite.

    # (n,) int8 or int16, (m+1,) int64, (m,) float32 -> (n,) float32

    The same bits on every machine: one rounded step per stretch, one rounded product per entry. Raises LocalError on
    other kinds of levels, s < 1, or when there is not one scale per stretch.
    """
    if levels.dtype not in (np.int8, np.int16) or s < 1:
        raise LocalError(f"undither: expected int8 or int16 levels and s >= 1; got {levels.dtype} and s={s}")
    levels, offsets = stretches(levels, levels.dtype.type, offsets)
    out = np.empty(len(levels), np.float32)
    _undither(out, levels, offsets, one_each(scales, offsets), float(factor), int(s), _largest_step(int(s)))
    return out


def signed(bits: np.ndarray, offsets: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Give each entry its stretch's scale, negative where its bit is one.  # (n,) uint8, (m,) float32 -> (n,) float32

    Raises LocalError unless there is one scale per stretch.
    """
    bits, offsets = stretches(bits, np.uint8, offsets)
    out = np.empty(len(bits), np.float32)
    _signed(out, bits, offsets, one_each(scales, offsets))
    return out


def round_up_16(scales: np.ndarray) -> np.ndarray:
    """Convert to bfloat16 words, rounded up, at most the largest finite one.  # (m,) float32, >= 0 -> (m,) uint16"""
    words = np.require(scales, np.float32).view(np.uint32).astype(np.uint64)
    return np.minimum((words + 0xFFFF) >> 16, 0x7F7F).astype(np.uint16)


def from_16(words: np.ndarray) -> np.ndarray:
    """Convert bfloat16 words to float32.  # (m,) uint16 -> (m,) float32"""
    return (words.astype(np.uint32) << np.uint32(16)).view(np.float32)


def stretches(x: np.ndarray, dtype: type[np.generic], offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as compiled loops take them; LocalError unless the offsets ascend from 0 to len(x)."""
    x, offsets = read_only(x, dtype), read_only(offsets, np.int64)
    ends = len(offsets) > 0 and offsets[0] == 0 and offsets[-1] == len(x)
    # Compiled loops check no bounds. Two ends ascend by themselves.
    if not ends or (len(offsets) > 2 and bool(np.logical_or.reduce(offsets[1:] < offsets[:-1]))):
        raise LocalError(f"kernels: offsets must ascend from 0 to {len(x)}; got {offsets[:3]}..{offsets[-1:]}")
    return x, offsets


def one_each(scales: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The scales in float32; LocalError unless there is one for each stretch."""
    if len(scales) != len(offsets) - 1:
        raise LocalError(f"kernels: expected one scale per stretch, {len(offsets) - 1}; got {len(scales)}")
    return read_only(scales, np.float32)


def _keys(seed: int) -> tuple[int, int]:
    """Derive a start and an odd step from a 64-bit seed, by the finaliser of splitmix64 (Steele et al. 2014)."""
    z = (seed + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    z ^= z >> 31
    return z % 2**32, z >> 32 | 1


@njit(cache=True, nogil=True)
def _max_abs(words, offsets):
    out = np.zeros(len(offsets) - 1, np.int32)
    for j in range(len(out)):
        part = words[offsets[j] : offsets[j + 1]]
        most = np.int32(0)
        for i in range(len(part)):  # as integers, which are in the same order and need no rule for NaN
            most = np.int32(max(most, np.int32(part[i] & MASK)))
        out[j] = most
    return out


@njit(cache=True, nogil=True)
def _sums(x, offsets, power):
    """Sum |x|^power, power 1 or 2, over each bucket.  # (m,) float64"""
    out = np.zeros(len(offsets) - 1, np.float64)
    sums = np.empty(LANES, np.float64)
    for j in range(len(out)):
        part = x[offsets[j] : offsets[j + 1]]
        sums[:] = 0
        for start in range(0, len(part), LANES):
            row = part[start : start + LANES]
            if power == 1:
                for i in range(len(row)):
                    sums[i] += abs(np.float64(row[i]))
            else:
                for i in range(len(row)):
                    sums[i] += np.float64(row[i]) * np.float64(row[i])
        total = 0.0
        for i in range(min(LANES, len(part))):
            total += sums[i]
        out[j] = total
    return out


@njit(inline="always")
def _noise(i, first, odd):
    """Return 24 bits for position i: a keyed Weyl sequence through two multiply-xorshift rounds.

    The rounds are Wellons' hash 16-15-15 (hash-prospector, 2018). Both keys enter before them: a key added between the
    rounds left streams of different keys correlated. Places 2^32 apart share their noise.
    """
    h = np.uint32(np.uint32(np.uint32(i) * odd) + first)
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(16))) * np.uint32(0x21F0AAAD))
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(15))) * np.uint32(0x735A2D97))
    return np.int32(np.uint32(h ^ (h >> np.uint32(15))) >> np.uint32(8))


@njit(cache=True, nogil=True)
def _dither8(out, x, offsets, scales, s, first, odd):
    first, odd = np.uint32(first), np.uint32(odd)
    top = np.float32(s * FRACTION)
    for j in range(len(scales)):
        base, end = offsets[j], offsets[j + 1]
        levels, part = out[base:end], x[base:end]
        words = part.view(np.int32)
        if not scales[j] > 0:
            levels[:] = 0
            continue
        shift = np.float32(1)  # a power of two that keeps s/scale within float32's range
        if scales[j] < 2.0**-60:
            shift = np.float32(2.0**80)
        elif scales[j] > 2.0**60:
            shift = np.float32(2.0**-80)
        ratio = np.float32(s * FRACTION / (np.float64(scales[j]) * shift))
        for i in range(len(part)):
            size = np.float32(np.float32(abs(part[i]) * shift) * ratio)
            size = size if size < top else top  # rounding must not make s + 1; NaN becomes s
            level = np.int32(np.int32(np.int32(size) + _noise(base + i, first, odd)) >> np.int32(24))
            sign = np.int32(words[i] >> np.int32(31))
            levels[i] = np.int8(np.int32(np.int32(level ^ sign) - sign))


@njit(cache=True, nogil=True)
def _dither16(out, x, offsets, scales, s, first, odd):
    first, odd = np.uint32(first), np.uint32(odd)
    top = np.float64(s)
    for j in range(len(scales)):
        base, end = offsets[j], offsets[j + 1]
        levels, part = out[base:end], x[base:end]
        words = part.view(np.int32)
        if not scales[j] > 0:
            levels[:] = 0
            continue
        ratio = s / np.float64(scales[j])
        for i in range(len(part)):
            size = abs(np.float64(part[i])) * ratio
            size = size if size < top else top
            whole = np.int32(size)
            rest = np.int32((size - np.float64(whole)) * FRACTION)
            level = np.int32(whole + np.int32(np.int32(rest + _noise(base + i, first, odd)) >> np.int32(24)))
            sign = np.int32(words[i] >> np.int32(31))
            levels[i] = np.int16(np.int32(np.int32(level ^ sign) - sign))


@lru_cache(maxsize=64)
def _largest_step(s: int) -> np.float32:
    """A step of which s are finite."""
    return np.nextafter(np.float32(LARGEST / s), np.float32(0))


@njit(cache=True, nogil=True)
def _undither(out, levels, offsets, scales, factor, s, most):
    for j in range(len(scales)):
        values, part = out[offsets[j] : offsets[j + 1]], levels[offsets[j] : offsets[j + 1]]
        step = np.float32(min(np.float64(scales[j]) * factor / s, LARGEST))
        if np.float64(step) * s > LARGEST:
            step = most
        for i in range(len(part)):
            values[i] = np.float32(part[i]) * step


@njit(cache=True, nogil=True)
def _signed(out, bits, offsets, scales):
    for j in range(len(scales)):
        values, part = out[offsets[j] : offsets[j + 1]], bits[offsets[j] : offsets[j + 1]]
        scale = scales[j]
        for i in range(len(part)):
            values[i] = -scale if part[i] else scale
