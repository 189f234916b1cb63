"""A s for the four kinds of basis, entry by entry in the order of the page."""

import math

import numpy as np


def expand(kind, scale, rows, columns, key, s):
    """A s.  # s: (columns,) float32 or float64"""
    x = {"fastfood": fastfood, "hadamard": hadamard, "sparse": sparse, "gaussian": gaussian}[kind](
        rows, columns, key, s
    )
    gain = math.sqrt(rows / columns) if scale == "unbiased" else 1.0
    return x if gain == 1 else x * s.dtype.type(gain)


def up(n):
    size = 1
    while size < n:
        size *= 2
    return size


def transform(x):
    stride = 1
    while stride < len(x):
        for p in range(len(x)):
            if p // stride % 2 == 0:
                a, b = x[p], x[p + stride]
                x[p], x[p + stride] = a + b, a - b
        stride *= 2


def blocks(rows, columns):
    least, start, found = up(columns), 0, []
    while start < rows:
        rest = rows - start
        size = max(least, up(rest))
        if size > least and (size - rest > rows / 8 or size > max(2**20, least)):
            size = max(least, min(size // 2, 2**20))
        found.append((start, min(rows, start + size), size))
        start += size
    return found


def fastfood(rows, columns, key, s):
    real, out = s.dtype.type, np.zeros(rows, s.dtype)
    for i, (start, stop, size) in enumerate(blocks(rows, columns)):
        k, width = key.fold("block", i), min(size, max(4096, up(columns)))
        signs = k.fold("B").signs(columns)
        places = [place % width for place in k.fold("P").shuffle(size)[0]]
        gains = k.fold("G").normal(size)
        units = sum(int(65536 * float(g)) ** 2 for g in gains)
        factor = real(1 / math.sqrt(rows * (units / 2**32)))
        v = np.zeros(width, s.dtype)
        for j in range(columns):
            v[j] = (s[j] * factor) * real(signs[j])
        transform(v)
        y = np.array([v[places[i]] * real(gains[i]) for i in range(size)], s.dtype)
        transform(y)
        out[start:stop] = y[: stop - start]
    return out


def hadamard(rows, columns, key, s):
    real = s.dtype.type
    signs, chosen = key.fold("B").signs(rows), key.fold("S").subset(columns, rows)
    y = np.zeros(rows, s.dtype)
    for j, place in enumerate(chosen):
        y[place] = s[j]
    start = 0
    while start < rows:
        size = 1
        while 2 * size <= min(rows - start, 2**20):
            size *= 2
        block = y[start : start + size] * real(1 / math.sqrt(size))
        transform(block)
        y[start : start + size] = block
        start += size
    return y * signs.astype(s.dtype)


def sparse(rows, columns, key, s):
    real = s.dtype.type
    order = [j for row in key.fold("P").shuffle(columns, -(-rows // columns)) for j in row][:rows]
    count = [order.count(j) for j in range(columns)]
    turn = key.fold("turn").below(rows, 1)[0]
    signs = key.fold("B").signs(rows)
    f, g = real(math.sqrt(columns / rows)), [real(math.sqrt(rows / columns / c)) for c in count]
    places = [order[(i + turn) % rows] for i in range(rows)]
    return np.array([((s[p] * f) * g[p]) * real(b) for p, b in zip(places, signs, strict=True)], s.dtype)


def gaussian(rows, columns, key, s):
    real = s.dtype.type
    step, f = max(1, 4096 // columns), real(1 / math.sqrt(rows))
    scaled, out = [x * f for x in s], np.zeros(rows, s.dtype)
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        drawn = key.fold("rows", start).normal((stop - start) * columns).reshape(-1, columns)
        for i in range(start, stop):
            for j in range(columns):
                out[i] = out[i] + real(drawn[i - start, j]) * scaled[j]
    return out
