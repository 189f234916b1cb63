"""Supports: sorted sets of k indices below n, the positions of a sparse vector. Both ends know k and n.

Three bits name the shortest form:
    RUNS       Golomb-coded runs between indices: the least overhead, for few indices
    RANDOM     runs in buckets under the geometric model of k and n; only rANS words are sent
    CLUSTERED  runs in buckets under a model that is sent (3 forms, 0 to 2 fine bits), because real updates cluster
A bucket is the bit length of a run and the `fine` bits after its leading one; the lower bits travel raw.
When k > n/2 the complement travels.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fewbits import kernels
from fewbits.coders.blocks import TAG_BITS, best_block, coded, model_terms, read_block, read_coded
from fewbits.coders.fixed import read_packed, write_packed
from fewbits.coders.golomb import parameter
from fewbits.errors import LocalError, WireError
from fewbits.wire import BitReader, BitWriter

RUNS, RANDOM, CLUSTERED = range(3)
FORMS = CLUSTERED + 3
FINE = 2  # fine bits of RANDOM, and the most of CLUSTERED
MODEL_BITS = 15
MAX_SIZE = 2**40


def write_support(indices: np.ndarray, n: int, out: BitWriter) -> None:
    """Append k distinct ascending indices below n; k = 0 and k = n cost nothing.  # (k,) int64

    Args:
        indices: (k,) int64.
        n: what the indices are below; up to 2^40.
        out: where they are written.

    Raises:
        LocalError: the indices are not ascending, distinct and below n.

    >>> out = BitWriter()
    >>> write_support(np.array([3, 70, 71]), 1000, out)
    >>> out.bits, read_support(3, 1000, BitReader(out.finish())).tolist()
    (33, [3, 70, 71])
    """
    _check(indices, n)
    if len(indices) in (0, n):
        return
    if 2 * len(indices) > n:
        indices = _complement(indices, n)
    _write(indices, n, int(_costs(indices, n).argmin()), out)


def read_support(k: int, n: int, src: BitReader) -> np.ndarray:
    """Read what `write_support` wrote.  # (k,) int64

    Args:
        k: how many indices there are.
        n: what they are below.
        src: where they are read from.

    Raises:
        LocalError: k and n do not fit each other.
        WireError: the bytes are not k ascending indices below n.
    """
    if not 0 <= k <= n or n > MAX_SIZE:
        raise LocalError(f"support: need 0 <= k <= n <= 2^40; got k={k}, n={n}")
    if k in (0, n):
        return np.arange(k, dtype=np.int64)
    fewer = min(k, n - k)
    form = src.read(3)
    if form >= FORMS:
        raise WireError(f"support: form {form} came; there are {FORMS}")
    found = _read(fewer, n, form, src)
    return found if fewer == k else _complement(found, n)


def exercise_forms() -> None:
    """Write and read a small support in every form, if one was written at all: then all their kernels are compiled."""
    if not kernels.golomb.form_bits.signatures:
        return
    indices, n = np.array([3, 70, 71]), 1000
    _geometric.__wrapped__(len(indices), n)  # the table may be remembered, and its kernel is needed for others
    for form in range(FORMS):
        out = BitWriter()
        _write(indices, n, form, out)
        src = BitReader(out.finish())
        src.read(3)
        _read(len(indices), n, form, src)


def _write(indices: np.ndarray, n: int, form: int, out: BitWriter) -> None:
    out.write(form, 3)
    if form == RUNS:
        _write_runs(indices, n, out)
    else:
        _write_buckets(indices, n, form, out)


def _read(k: int, n: int, form: int, src: BitReader) -> np.ndarray:
    return _read_runs(k, n, src) if form == RUNS else _read_buckets(k, n, form, src)


def _check(indices: np.ndarray, n: int) -> None:
    if indices.dtype != np.int64 or indices.ndim != 1 or n > MAX_SIZE:
        found = f"{indices.dtype} {indices.shape}, n={n}"
        raise LocalError(f"support: expected int64 indices of one dimension, n up to 2^40; got {found}")
    if len(indices) and (indices[0] < 0 or indices[-1] >= n or not bool(np.all(indices[1:] > indices[:-1]))):
        raise LocalError(f"support: indices must be ascending, distinct and in 0..{n - 1}")


def _complement(indices: np.ndarray, n: int) -> np.ndarray:
    missing = np.ones(n, bool)
    missing[indices] = False
    return np.flatnonzero(missing)


def _costs(indices: np.ndarray, n: int) -> np.ndarray:
    """Estimate the length of each form in bits from counts: RUNS exactly, the others within a few bits.  # (FORMS,)"""
    k, costs = len(indices), np.empty(FORMS, np.float64)
    terms = model_terms(k)
    kernels.golomb.form_bits(indices, parameter(k, n), FINE, _geometric(k, n), terms, TAG_BITS, costs)
    return costs


def _write_runs(indices: np.ndarray, n: int, out: BitWriter) -> None:
    m = parameter(len(indices), n)
    words = np.zeros(_max_run_bits(len(indices), n, m) // 64 + 2, np.uint64)
    nbits = int(kernels.golomb.golomb_encode(indices, _whole(len(indices)), np.array([m]), words))
    out.align()
    write_packed(kernels.bits.tobytes(words, nbits), nbits, out)


def _read_runs(k: int, n: int, src: BitReader) -> np.ndarray:
    m = parameter(k, n)
    data = src.rest()[: _max_run_bits(k, n, m) // 8 + 1]
    src.need(k, "a run of one bit at least per index")
    found = np.empty(k, np.int64)
    words = kernels.bits.words(data)
    used = kernels.golomb.golomb_decode(words, 8 * len(data), _whole(k), np.array([m]), np.array([n]), found)
    if used < 0:
        raise WireError(f"support: {k} indices below {n} do not fit the bytes that came")
    src.skip(int(used))
    return found


def _whole(k: int) -> np.ndarray:
    return np.array([0, k], np.int64)


def _max_run_bits(k: int, n: int, m: int) -> int:
    return n // m + k * ((m - 1).bit_length() + 1)


def _write_buckets(indices: np.ndarray, n: int, form: int, out: BitWriter) -> None:
    fine = FINE if form == RANDOM else form - CLUSTERED
    symbols = np.empty(len(indices), np.uint8)
    words = np.zeros(len(indices) * n.bit_length() // 64 + 2, np.uint64)
    nbits = int(kernels.golomb.bucket_encode(indices, fine, symbols, words))
    if form == RANDOM:
        out.write_bytes(coded(symbols, _geometric(len(indices), n), MODEL_BITS))
    else:
        best_block(symbols, _buckets(n, fine)).write(out)
    write_packed(kernels.bits.tobytes(words, nbits), nbits, out)


def _read_buckets(k: int, n: int, form: int, src: BitReader) -> np.ndarray:
    fine = FINE if form == RANDOM else form - CLUSTERED
    symbols = (
        read_coded(k, _geometric(k, n), MODEL_BITS, src) if form == RANDOM else read_block(k, _buckets(n, fine), src)
    )
    raw = read_packed(int(kernels.golomb.bucket_bits(symbols, fine)), src)
    found = np.empty(k, np.int64)
    if not kernels.golomb.bucket_decode(symbols, fine, kernels.bits.words(raw), n, found):
        raise WireError(f"support: {k} runs reach index {n} or beyond")
    return found


def _buckets(n: int, fine: int) -> int:
    """Count the buckets of runs below n; at least 17, so that blocks put one in a byte."""
    spare = max(0, (n - 1).bit_length() - 1 - fine)
    return max(17, (spare << fine) + ((n - 1) >> spare) + 1)


@lru_cache(maxsize=64)  # as above
def _spare(buckets: int, fine: int) -> np.ndarray:
    """Return the raw bits of each bucket.  # (buckets,) int64"""
    return np.maximum(0, (np.arange(buckets) >> fine) - 1)


def _lowest(buckets: int, fine: int) -> np.ndarray:
    """Return the shortest run of each bucket.  # (buckets,) int64"""
    spare = _spare(buckets, fine)
    return (np.arange(buckets) - (spare << fine)) << spare


@lru_cache(maxsize=64)  # a link sends supports of one size; callers must not write to the result
def _geometric(k: int, n: int) -> np.ndarray:
    """Return bucket frequencies when each index is present with probability k/n: q^lowest - q^(next lowest).  # int64

    Only products of doubles are used, so that both ends round alike. Tiny weights are raised to one floor, because a
    processor setting decides whether denormal numbers become zero.
    """
    lowest = _lowest(_buckets(n, FINE) + 1, FINE)
    square, powers = (n - k) / n, np.ones(len(lowest))
    for i in range(MAX_SIZE.bit_length() + 1):
        powers[(lowest >> i) & 1 == 1] *= square
        square *= square
    return kernels.rans.normalise(np.maximum(powers[:-1] - powers[1:], 2.0**-60), MODEL_BITS)
