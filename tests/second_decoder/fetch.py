"""A server's round of FetchSGD, in float32."""

import numpy as np

from second_decoder.linear import heaviest


def step(table, mean, u, e, k, momentum, lr, feedback):
    """(support, values, u, e) after a round.  # table: a Table; mean, u, e: float32"""
    u = u * np.float32(momentum) + mean
    e = u * np.float32(lr) + e
    estimates = table.back(e, "median")
    support = heaviest(estimates, k)
    sparse = np.zeros(table.n, np.float32)
    sparse[support] = estimates[support]
    taken = table.of(sparse)
    if feedback == "subtract":
        return support, estimates[support], u, e - taken
    there = taken != 0
    return support, estimates[support], np.where(there, np.float32(0), u), np.where(there, np.float32(0), e)
