"""The vector that error feedback sends, in one pass over memory.

In NumPy: out[:] = x + decay * e, product and sum each rounded to their type; np.count_nonzero(~np.isfinite(out)).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fewbits.errors import LocalError
from fewbits.kernels.select import read_only

BLOCK = 2048  # entries at a time, for narrow counts


def add_decayed(x: np.ndarray, e: np.ndarray, decay: float, out: np.ndarray) -> int:
    """Set out = x + decay * e; count what is infinite or NaN.  # (n,) float32 or float64, all of one type

    Raises LocalError when lengths or types differ, or when out cannot be written in place.
    """
    kind = out.dtype.type
    if kind not in (np.float32, np.float64) or not out.flags.carray or not x.shape == e.shape == out.shape:
        raise LocalError(
            f"add_decayed: expected three float vectors of one length, the last to write in; got {x.shape}, {e.shape} "
            f"and {out.dtype} {out.shape}"
        )
    if x.dtype != kind or e.dtype != kind:
        raise LocalError(f"add_decayed: expected {out.dtype} as in out; got {x.dtype} and {e.dtype}")
    return int(_add_decayed(out, read_only(x, kind), read_only(e, kind), kind(decay), np.finfo(kind).max))


@njit(cache=True, nogil=True)
def _add_decayed(out, x, e, decay, largest):
    bad = 0
    for start in range(0, len(out), BLOCK):
        total, new, old = out[start : start + BLOCK], x[start : start + BLOCK], e[start : start + BLOCK]
        some = np.int32(0)
        for i in range(len(total)):
            total[i] = new[i] + decay * old[i]
            some = np.int32(some + np.int32(not abs(total[i]) <= largest))
        bad += some
    return bad
