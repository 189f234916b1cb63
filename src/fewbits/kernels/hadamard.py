"""The fast Walsh-Hadamard transform in place, unnormalised, in Sylvester's order.

In NumPy, for a length n that is a power of two:

    transform(x)    x[:] = scipy.linalg.hadamard(n) @ x

as log2(n) stages of (a, b) -> (a + b, a - b) at strides 1, 2, 4, ..., n/2, two stages in one pass. Each result is one
rounded sum and the order of the stages is fixed, so the bits are the same on every machine, whatever the schedule.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fewbits.errors import LocalError

BLOCK = 4096  # entries; with as much scratch it stays in a first-level cache of 48 KiB
FAR = 1 << 18  # entries; longer parts leave the second-level cache, and four stages share a pass
CHUNK = 512  # entries of each of sixteen parts at a time
TYPES = (np.float32, np.float64)
ONE, TWO, THREE, FOUR = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)


def transform(x: np.ndarray) -> None:
    """Set x = H x, H the n by n matrix of +-1 with H H^T = n I.  # (n,) float32 or float64, n a power of two

    Depth first: a block that is in cache is finished before the next is fetched. Raises LocalError on another length,
    or when x cannot be written in place.
    """
    n = len(x)
    if x.ndim != 1 or n & (n - 1) or n == 0:
        raise LocalError(f"hadamard: expected a vector whose length is a power of two; got shape {x.shape}")
    if x.dtype not in TYPES or not x.flags.carray:
        raise LocalError(f"hadamard: expected a writable contiguous float32 or float64 array; got {x.dtype}")
    size = min(n, BLOCK)
    if n > size and (n // size).bit_length() % 2 == 0:
        size //= 2  # then n is size times a power of four
    _transform(x, size, np.empty(size, x.dtype))


@njit(cache=True, nogil=True)
def _transform(x, size, scratch):
    n = len(x)
    for start in range(0, n, size):
        end = start + size
        _block(x[start:end], scratch)
        done = size  # this many before `end` are done among themselves
        while done < n and end % (4 * done) == 0:
            wide = done >= FAR and 4 * done < n
            if wide and end % (16 * done) == 0:
                _sixteen(x[end - 16 * done : end])
            elif wide:
                break  # wait for all sixteen
            else:
                _four(x, end - 4 * done, done, done)
            done *= 16 if wide else 4


@njit(cache=True, nogil=True)
def _sixteen(x):
    """Do the last four stages of x in one pass over memory; its sixteenths are transformed already."""
    h = len(x) // 16
    for start in range(0, h, CHUNK):
        for k in range(4):
            _four(x, 4 * k * h + start, h, CHUNK)
        for k in range(4):
            _four(x, k * h + start, 4 * h, CHUNK)


@njit(cache=True, nogil=True)
def _block(x, scratch):
    """Do all stages of a block.

    A pass works on the two lowest bits of the index and moves them to the top. So every pass has the same access
    pattern, which suits vector instructions, and after all passes the bits are in order again.
    """
    left, here = len(x), True
    while left > 1:
        source, target = (x, scratch) if here else (scratch, x)
        if left == 2:
            _rotate_two(source, target)
        else:
            _rotate_four(source, target)
        left = left // 4 if left >= 4 else 1
        here = not here
    if not here:
        x[:] = scratch


@njit(cache=True, nogil=True)
def _rotate_four(x, out):
    m = len(x) // 4
    p, q, r, w = out[:m], out[m : 2 * m], out[2 * m : 3 * m], out[3 * m :]
    for i in range(m):
        k = FOUR * np.uint64(i)  # unsigned: a negative index, which NumPy would wrap, keeps loops from being vectorised
        a, b, c, d = x[k], x[k + ONE], x[k + TWO], x[k + THREE]
        s, t, u, v = a + b, a - b, c + d, c - d
        p[i], q[i], r[i], w[i] = s + u, t + v, s - u, t - v


@njit(cache=True, nogil=True)
def _rotate_two(x, out):
    m = len(x) // 2
    p, q = out[:m], out[m:]
    for i in range(m):
        k = TWO * np.uint64(i)
        a, b = x[k], x[k + ONE]
        p[i], q[i] = a + b, a - b


@njit(cache=True, nogil=True)
def _four(x, start, stride, count):
    """Do two stages, at `stride` and twice that, on `count` entries at `start` and at three further strides."""
    p, q = x[start : start + count], x[start + stride : start + stride + count]
    r, w = x[start + 2 * stride : start + 2 * stride + count], x[start + 3 * stride : start + 3 * stride + count]
    for j in range(count):
        a, b, c, d = p[j], q[j], r[j], w[j]
        s, t, u, v = a + b, a - b, c + d, c - d
        p[j], q[j], r[j], w[j] = s + u, t + v, s - u, t - v
