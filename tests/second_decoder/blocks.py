"""Blocks of bytes: models, tables, frequencies, rANS."""


def digits(levels):
    return next(d for d in (8, 5, 4, 3, 2, 1) if levels**d <= 256 or d == 1)


def split(byte, levels):
    """The digits of a byte, the most significant first."""
    count = digits(levels)
    return [byte // levels ** (count - 1 - i) % levels for i in range(count)]


def block(n, levels, bits):
    """n bytes of digits below `levels`."""
    model, values = bits.take(2), levels ** digits(levels)
    if model < 2:
        data = bits.bytes(n) if model == 0 else bits.bytes(1) * n
        assert max(data) < values
        return list(data)
    bits.align()
    if model == 2:
        shares = [float(w) for w in weights(values, 5 if n >= 2**20 else 3, bits)]
    else:
        each = [float(w) for w in weights(levels, 7, bits)]
        shares = []
        for byte in range(values):
            first, *others = split(byte, levels)
            share = each[first]
            for digit in others:
                share *= each[digit]
            shares.append(share)
    bits.align()
    return rans(n, frequencies(shares, 2**15 if n >= 2**12 else 2**12), bits)


def weights(count, m, bits):
    length, found = 0, []
    for _ in range(count):
        code = bits.gamma()
        length += -(code >> 1) if code & 1 else code >> 1
        assert 0 <= length <= 17
        low = min(max(0, length - 1), m)
        found.append((1 << low | bits.take(low)) << (length - 1 - low) if length else 0)
    assert any(found)
    return found


def frequencies(shares, room):
    total = 0.0
    for share in shares:
        total += share
    f = [max(1, int(share / total * room)) if share > 0 else 0 for share in shares]
    while sum(f) < room:
        f[max((i for i in range(len(f)) if f[i]), key=lambda i: (shares[i] / (f[i] + 0.5), -i))] += 1
    while sum(f) > room:
        f[min((i for i in range(len(f)) if f[i] > 1), key=lambda i: (shares[i] / (f[i] - 0.5), i))] -= 1
    return f


def rans(n, f, bits):
    """n bytes under frequencies; the writer stands at a whole byte."""
    bits.align()
    room, lanes = sum(f), 4 if n >= 2**14 else 1
    slots, starts = [], []
    for byte, count in enumerate(f):
        starts.append(len(slots))
        slots += [byte] * count
    states = [bits.take(32) for _ in range(lanes)]
    assert min(states) >= 2**16
    found = []
    for i in range(n):
        x = states[i % lanes]
        s = slots[x % room]
        found.append(s)
        x = f[s] * (x // room) + x % room - starts[s]
        states[i % lanes] = x << 16 | bits.take(16) if x < 2**16 else x
    assert states == [2**16] * lanes
    return found
