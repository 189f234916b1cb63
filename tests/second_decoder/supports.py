"""Runs and supports: where a sparse vector is not zero."""

from itertools import pairwise

from second_decoder.blocks import block, frequencies, rans


def parameter(hits, size):
    """M, by exactly the page's steps."""
    q = (size - hits) / size
    powers = [q]
    while powers[-1] * (1 + q) > 1:
        powers.append(powers[-1] * powers[-1])
    below, p = 0, 1.0
    for i in range(len(powers) - 2, -1, -1):
        if p * powers[i] * (1 + q) > 1:
            below, p = below + 2**i, p * powers[i]
    return below + 1


def runs(hits, size, bits):
    m = parameter(hits, size)
    b = (m - 1).bit_length()
    h, position, found = 2**b - m, -1, []
    for _ in range(hits):
        gap = bits.zeros() * m
        if m > 1:
            rest = bits.take(b - 1)
            if rest >= h:
                rest = (rest << 1 | bits.take(1)) - h
            gap += rest
        position += 1 + gap
        assert position < size
        found.append(position)
    return found


def support(k, n, bits):
    if k in (0, n):
        return list(range(k))
    fewer = min(k, n - k)
    form = bits.take(3)
    if form == 0:
        bits.align()
        found = runs(fewer, n, bits)
    else:
        found = buckets(fewer, n, form, bits)
    if fewer == k:
        return found
    missing = set(found)
    return [i for i in range(n) if i not in missing]


def buckets(k, n, form, bits):
    fine = 2 if form == 1 else form - 2
    coded = rans(k, geometric(k, n), bits) if form == 1 else block(k, count(n, fine), bits)
    spares = [max(0, (bucket >> fine) - 1) for bucket in coded]
    raw, at, position, found = bits.packed(sum(spares)), 0, -1, []
    for bucket, spare in zip(coded, spares, strict=True):
        gap = (bucket - (spare << fine) << spare) + int("0" + raw[at : at + spare], 2)
        at, position = at + spare, position + 1 + gap
        assert position < n
        found.append(position)
    return found


def count(n, fine):
    """B."""
    z = max(0, (n - 1).bit_length() - 1 - fine)
    return max(17, z * 2**fine + (n - 1 >> z) + 1)


def geometric(k, n):
    low = []
    for bucket in range(count(n, 2) + 1):
        spare = max(0, (bucket >> 2) - 1)
        low.append((bucket - (spare << 2)) << spare)
    a, p = (n - k) / n, [1.0] * len(low)
    for i in range(42):
        p = [x * a if gap >> i & 1 else x for x, gap in zip(p, low, strict=True)]
        a = a * a
    return frequencies([max(x - y, 2.0**-60) for x, y in pairwise(p)], 2**15)
