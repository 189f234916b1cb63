"""The way back of Rotate and DCT, step by step in the order of the page."""

import math

import numpy as np

from second_decoder.bases import transform


def rotated_back(key, y):
    """x from R x.  # (n,)"""
    n, real, x, size = len(y), y.dtype.type, y.copy(), 1
    while 2 * size <= n:
        size *= 2
    for p in (1, 0) if n else ():
        k = key.fold("pass", p)
        if size < n:
            hadamard(x[n - size :], real)
            x[n - size :] *= k.fold("C").signs(size).astype(y.dtype)
        hadamard(x[:size], real)
        x *= k.fold("B").signs(n).astype(y.dtype)
        if p == 1 and size < n:
            half, mixed = (n + 1) // 2, np.empty_like(x)
            mixed[0::2], mixed[1::2] = x[:half], x[half:]
            x = mixed
    return x


def hadamard(x, real):
    x *= real(1 / math.sqrt(len(x)))
    transform(x)


def cosines_back(chunk, lengths, y):
    """Entries from coefficients.  # (n,)"""
    found, at = [], 0
    for length in lengths:
        size, left = chunk, length
        while left:
            while size > left:
                size //= 2
            table, coefficients = cosines(size), y[at : at + size]
            for j in range(size):
                total = y.dtype.type(0)
                for k in range(size):
                    total = total + y.dtype.type(entry(table, k, j, size)) * coefficients[k]
                found.append(total)
            at, left = at + size, left - size
    return np.array(found, y.dtype)


def entry(table, k, j, size):
    turn = (2 * j + 1) * k % (4 * size)
    turn = min(turn, 4 * size - turn)
    cosine = table[turn] if turn <= size else -table[2 * size - turn]
    return cosine * math.sqrt((1.0 if k == 0 else 2.0) / size)


def cosines(size):
    """Of pi t / (2 size)."""
    table = {0: 1.0, size: 0.0}
    step = size
    while step > 1:
        half = step // 2
        table[half] = math.sqrt((1 + table[step]) / 2)
        for t in range(step + half, size, step):
            table[t] = (table[t - half] + table[t + half]) / (2 * table[half])
        step = half
    return table
