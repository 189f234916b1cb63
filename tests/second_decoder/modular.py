"""Sums of words modulo 2^bits, and the masks that cancel in them."""

import hashlib

import numpy as np


def total(words, bits, clip, clients, count):
    """The vector behind a sum of `count` messages' words."""
    top = (2 ** (bits - 1) - 1) // clients
    step, found = clip / top, []
    for word in words:
        level = word - 2**bits if word >= 2 ** (bits - 1) else word
        assert abs(level) <= count * top
        found.append(level * step)
    return np.array(found, np.float64)


def stream(n, bits, key):
    """What two clients add and subtract."""
    size = 4 if bits <= 32 else 8
    data = hashlib.shake_256(key.fold("field mask").digest(32)).digest(n * size)
    return [int.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)]
