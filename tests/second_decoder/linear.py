"""Tables and factors: what CountSketch, MeanSketch and LowRank send, made vectors again."""

import math

import numpy as np

from second_decoder.bits import cast, largest, times, wide

FULL = 2**64


def kept(fraction, n):
    """k of TopK and RandK."""
    return min(n, max(1, math.ceil(round(fraction * n, 6))))


def heaviest(x, k):
    """Places of the k largest magnitudes in float32, ascending; zeros never."""
    sizes = np.abs(np.clip(x, -largest("float32"), largest("float32")).astype(np.float32))
    order = sorted(range(len(x)), key=lambda i: (-sizes[i], i))[:k]
    return sorted(i for i in order if sizes[i] > 0)


class Table:
    """A count sketch of n elements."""

    def __init__(self, n, rows, columns, key):
        self.n, self.rows, self.columns = n, rows, columns
        self.whole = n <= rows * columns
        self.numbers = n if self.whole else rows * columns
        self.words = [key.fold("row", r).word() for r in range(rows)]
        e = 0
        while 4**e * columns < n:
            e += 1
        self.factor = 1.0 if self.whole else 2.0**-e

    def place(self, r, i):
        """(column, sign) of element i in row r."""
        z = (self.words[r] + (i + 1) * 0x9E3779B97F4A7C15) % FULL
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % FULL
        z = (z ^ z >> 27) * 0x94D049BB133111EB % FULL
        z ^= z >> 31
        return (z >> 32) * self.columns >> 32, -1 if z % 2 else 1

    def of(self, x):
        """The table of a vector."""
        if self.whole:
            return x.copy()
        table = [[0.0] * self.columns for _ in range(self.rows)]
        for r in range(self.rows):
            for i in range(self.n):
                column, sign = self.place(r, i)
                table[r][column] += sign * float(x[i])
        return (np.array(table).reshape(-1) * self.factor).astype(x.dtype)

    def back(self, table, how):
        """Every element's estimate, by the median or the mean of rows."""
        if self.whole:
            return table.copy()
        real = table.dtype.type
        found = np.zeros(self.n, table.dtype)
        for i in range(self.n):
            estimates = []
            for r in range(self.rows):
                column, sign = self.place(r, i)
                value = table[r * self.columns + column]
                estimates.append(-value if sign < 0 else value)
            if how == "mean":
                total = 0.0
                for value in estimates:
                    total += float(value)
                found[i] = real(total / self.rows)
            else:
                found[i] = median(estimates, real)
        most = largest(str(table.dtype))
        with np.errstate(over="ignore"):
            return np.clip(found / real(self.factor), -most, most)


def median(e, real):
    rows = len(e)
    for t in range(rows):
        for r in range(t % 2, rows - 1, 2):
            if not e[r] < e[r + 1]:
                e[r], e[r + 1] = e[r + 1], e[r]
    if rows % 2:
        return e[rows // 2]
    return real(0.5) * e[rows // 2 - 1] + real(0.5) * e[rows // 2]


def estimate(kind, n, dtype, given, table, s):
    """A decoded sketch of either kind.  # s: the numbers that came"""
    assert np.isfinite(s).all(), "a table is not finite"
    x = table.back(s, "mean" if kind == "mean_sketch" else "median")
    if given.get("fraction") is not None:
        places = heaviest(x, kept(given["fraction"], n))
        x = np.array([x[i] if i in set(places) else 0.0 for i in range(n)], x.dtype)
    if given["mode"] == "contractive":
        v = 1 / given["rows"] if kind == "mean_sketch" else given["rows"] / ((given["rows"] + 1) // 2)
        w = 0.0 if table.whole else v * (n - 1) * (1 / given["columns"] + 2.0**-32)
        x = times(x, 1 / (1 + w), wide(dtype))
    return cast(np.clip(x, -largest(dtype), largest(dtype)), dtype)


def pieces(lengths, rank, columns):
    """(elements, rows, columns, numbers) of each piece; rows 0: as it is."""
    found = []
    for size in lengths:
        if not size:
            found.append((0, 0, 0, 0))
            continue
        root = 0
        while root * root < size:
            root += 1
        b = min(columns or -(-size // root), size)
        a = -(-size // b)
        found.append((size, a, b, rank * (a + b)) if rank * (a + b) < size else (size, 0, 0, size))
    return found


def product(numbers, a, b, rank, size):
    """P Q^T of one piece."""
    p, q = numbers[: rank * a].reshape(rank, a), numbers[rank * a :].reshape(rank, b)
    out = np.zeros((a, b), numbers.dtype)
    for i in range(a):
        for j in range(b):
            total = 0.0
            for r in range(rank):
                total += float(p[r, i]) * float(q[r, j])
            with np.errstate(over="ignore"):
                out[i, j] = total
    return out.reshape(-1)[:size]


def low_rank(lengths, rank, columns, dtype, numbers):
    assert np.isfinite(numbers).all(), "a factor is not finite"
    found, at = [np.zeros(0, numbers.dtype)], 0
    for size, a, b, count in pieces(lengths, rank, columns):
        part = numbers[at : at + count]
        found.append(product(part, a, b, rank, size) if a else part)
        at += count
    return cast(np.clip(np.concatenate(found), -largest(dtype), largest(dtype)), dtype)
