"""A gradient step of a whole model, in place and in one pass over the memory.

In NumPy, in the type of the vectors, every operation rounded once:

    momentum[:] = decay * momentum + update
    theta[:] -= lr * momentum                       or, with Nesterov's momentum,
    theta[:] -= lr * (decay * momentum + update)
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fewbits.errors import LocalError

TYPES = (np.float32, np.float64)


def sgd(
    theta: np.ndarray, update: np.ndarray, momentum: np.ndarray | None, lr: float, decay: float, nesterov: bool
) -> None:
    """Step along the update.  # (n,) float32 or float64 each, none in another's memory

    Raises LocalError unless all have one type and length.
    """
    used = [theta, update] if momentum is None else [theta, update, momentum]
    if theta.dtype not in TYPES or len({(x.dtype, x.shape) for x in used}) > 1:
        raise LocalError(f"sgd: vectors must have one float type and length; got {[(x.dtype, len(x)) for x in used]}")
    kind = theta.dtype.type
    if momentum is None:
        _plain(theta, update, kind(lr))
    else:
        (_nesterov if nesterov else _momentum)(theta, update, momentum, kind(lr), kind(decay))


@njit(cache=True, nogil=True)
def _plain(theta, update, lr):
    for i in range(len(theta)):
        theta[i] -= lr * update[i]


@njit(cache=True, nogil=True)
def _momentum(theta, update, momentum, lr, decay):
    for i in range(len(theta)):
        m = decay * momentum[i] + update[i]
        momentum[i] = m
        theta[i] -= lr * m


@njit(cache=True, nogil=True)
def _nesterov(theta, update, momentum, lr, decay):
    for i in range(len(theta)):
        m = decay * momentum[i] + update[i]
        momentum[i] = m
        theta[i] -= lr * (decay * m + update[i])
