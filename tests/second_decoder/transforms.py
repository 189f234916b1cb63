"""The transforms of a chain: what each reads, what the next step sees, and the way back."""

import math
from typing import NamedTuple

import numpy as np

from second_decoder.bases import expand
from second_decoder.bits import as_floats, cast, largest, times, wide
from second_decoder.keys import Name
from second_decoder.linear import Table, estimate, kept, low_rank, pieces
from second_decoder.rotations import cosines_back, rotated_back
from second_decoder.supports import support


class Vector(NamedTuple):
    """What a step sees: elements, type, and the lengths of the tensors in it."""

    n: int
    dtype: str
    segments: tuple = ()

    @property
    def lengths(self):
        return self.segments or (self.n,)


class Levels(NamedTuple):
    """Integers for the coder."""

    n: int
    low: int
    high: int


def read(name, given, seen, bits, common):
    """(what the next step sees, the way back)."""
    return TRANSFORMS[name](given, seen, bits, common)


def raw(given, seen, bits, common):
    named = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "fp64": "float64"}
    dtype = named[given["dtype"]] if given["dtype"] else seen.dtype
    return seen._replace(dtype=dtype), lambda x: cast(x, seen.dtype)


def top_k(given, seen, bits, common):
    chunk = given["chunk"] or seen.n
    pieces = [min(chunk, seen.n - start) for start in range(0, seen.n, chunk)] if seen.n else []
    return selected(sum(kept(given["fraction"], piece) for piece in pieces), seen, bits)


def threshold(given, seen, bits, common):
    return selected(seen.n, seen, bits)


def selected(most, seen, bits):
    missing = bits.delta() - 1
    assert missing <= most
    places = support(most - missing, seen.n, bits)
    return Vector(len(places), seen.dtype), lambda x: scattered(places, x, seen)


def rand_k(given, seen, bits, common):
    k = kept(given["fraction"], seen.n)
    places = common.fold("randk").subset(k, seen.n)
    gain = seen.n / k if given["mode"] == "unbiased" and k else None
    return Vector(k, seen.dtype), lambda x: scattered(places, x if gain is None else times(x, gain, seen.dtype), seen)


def scattered(places, x, seen):
    out = np.zeros(seen.n, wide(seen.dtype))
    for place, value in zip(places, x, strict=True):
        out[place] = value
    return out


def modular(given, seen, bits, common):
    return Levels(seen.n, 0, 2 ** given["bits"] - 1), lambda x: cast(np.array(x, np.float64), seen.dtype)


def stretches(bucket, seen):
    """Lengths."""
    if bucket == "whole":
        return [seen.n]
    if bucket == "tensor":
        return list(seen.lengths)
    return [min(bucket, seen.n - start) for start in range(0, seen.n, bucket)]


def scales(bucket, count, bits):
    size = 2 if isinstance(bucket, int) else 4
    data = np.frombuffer(bits.bytes(count * size), f"<u{size}")
    found = as_floats(data, "bfloat16" if size == 2 else "float32")
    assert np.isfinite(found).all() and not np.signbit(found).any()
    return found


def stepped(levels, steps, lengths, dtype):
    each = np.repeat(np.array(steps, np.float32), lengths)
    return cast(np.array(levels, np.float32) * each, dtype)


def sign(given, seen, bits, common):
    bucket, sizes = given["bucket"], given["sizes"]
    lengths = stretches(bucket, seen)
    means = scales(bucket, len(lengths) * sizes, bits)

    def back(codes):
        block = [j for j, length in enumerate(lengths) for _ in range(length)]
        steps = [means[j * sizes + code // 2] for j, code in zip(block, codes, strict=True)]
        return stepped([1 - 2 * (code % 2) for code in codes], steps, [1] * seen.n, seen.dtype)

    return Levels(seen.n, 0, 2 * sizes - 1), back


def quantize(given, seen, bits, common):
    bucket, s = given["bucket"], 2 ** (given["bits"] - 1) - 1
    lengths = stretches(bucket, seen)
    c = 1.0
    if given["mode"] == "contractive":
        longest = max(lengths, default=0)
        grown = (1 + 2.0**-7) ** 2 if isinstance(bucket, int) else 1.0
        u = longest / s**2 if given["norm"] == "l2" else longest / (4 * s**2)
        c = 1 / (1 + grown * min(u, math.sqrt(longest) / s))
    steps = [step(float(scale), c, s) for scale in scales(bucket, len(lengths), bits)]
    return Levels(seen.n, -s, s), lambda x: stepped(x, steps, lengths, seen.dtype)


def dead_zone(given, seen, bits, common):
    bucket, s = given["bucket"], given["levels"]
    lengths = stretches(bucket, seen)
    gains = scales(bucket, len(lengths), bits)
    return Levels(seen.n, -s, s), lambda x: stepped(x, gains, lengths, seen.dtype)


def step(scale, c, s):
    most = largest("float32")
    found = np.float32(min(scale * c / s, most))
    return np.nextafter(np.float32(most / s), np.float32(0)) if float(found) * s > most else found


def subspace(given, seen, bits, common):
    key = (common if given["seed"] is None else Name(given["seed"])).fold("subspace")
    whole, d = seen.n < given["dim"], given["dim"]

    def back(s):
        return cast(s if whole else expand(given["basis"], given["scale"], seen.n, d, key, s), seen.dtype)

    return Vector(min(d, seen.n), wide(seen.dtype)), back


def rotate(given, seen, bits, common):
    key = (common if given["seed"] is None else Name(given["seed"])).fold("rotate")
    return Vector(seen.n, wide(seen.dtype)), lambda y: cast(rotated_back(key, y), seen.dtype)


def dct(given, seen, bits, common):
    def back(y):
        return cast(cosines_back(given["chunk"], seen.lengths, y), seen.dtype)

    return Vector(seen.n, wide(seen.dtype)), back


def factors(given, seen, bits, common):
    lengths = seen.lengths if given["per"] == "tensor" else (seen.n,)
    numbers = sum(count for *_, count in pieces(lengths, given["rank"], given["columns"]))

    def back(x):
        return low_rank(lengths, given["rank"], given["columns"], seen.dtype, x)

    return Vector(numbers, wide(seen.dtype)), back


def sketched(kind):
    def found(given, seen, bits, common):
        key = (common if given["seed"] is None else Name(given["seed"])).fold("count_sketch")
        table = Table(seen.n, given["rows"], given["columns"], key)

        def back(x):
            return estimate(kind, seen.n, seen.dtype, given, table, x)

        return Vector(table.numbers, wide(seen.dtype)), back

    return found


TRANSFORMS = {
    "raw": raw,
    "topk": top_k,
    "threshold": threshold,
    "randk": rand_k,
    "modular": modular,
    "sign": sign,
    "quantize": quantize,
    "dead_zone": dead_zone,
    "subspace": subspace,
    "rotate": rotate,
    "dct": dct,
    "low_rank": factors,
    "count_sketch": sketched("count_sketch"),
    "mean_sketch": sketched("mean_sketch"),
}
