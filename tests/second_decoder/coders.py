"""A carrier's n symbols from bits, by each coder."""

from second_decoder.blocks import block, digits, split
from second_decoder.supports import runs


def width(levels):
    return (levels - 1).bit_length()


def integers(coder, n, low, high, bits):
    """n integers in low..high."""
    levels = high - low + 1
    if n == 0 or levels == 1:
        return [low] * n
    name, options = coder
    found = {
        "fixed": fixed,
        "rans": rans,
        "zstd": zstd,
        "elias": lambda *a: elias(options["code"], low, high, *a),
        "golomb": lambda *a: golomb(options["order"], *a),
        "auto": lambda *a: auto(low, high, *a),
    }[name](n, levels, width(levels), bits)
    assert max(found) < levels
    return [symbol + low for symbol in found]


def words(coder, n, size, bits):
    """n float words of `size` bits."""
    if n == 0:
        return []
    tag = bits.take(3) if coder[0] == "auto" else ("fixed", "rans", "zstd").index(coder[0])
    if tag == 0 or not bits.take(1):
        data = bits.bytes(n * size // 8)
        return [int.from_bytes(data[i : i + size // 8], "little") for i in range(0, len(data), size // 8)]
    return planes(n, size, tag == 2, bits)


def fixed(n, levels, size, bits):
    text = bits.packed(n * size)
    return [int(text[i : i + size], 2) for i in range(0, n * size, size)]


def rans(n, levels, size, bits):
    if not bits.take(1):
        return fixed(n, levels, size, bits)
    if size > 8:
        return planes(n, size, False, bits)
    return separate(block(-(-n // digits(levels)), levels, bits), levels, n)


def zstd(n, levels, size, bits):
    if not bits.take(1):
        return fixed(n, levels, size, bits)
    if size > 8:
        return planes(n, size, True, bits)
    return separate(unpacked(-(-n // digits(levels)), n * size, bits), levels, n)


def separate(data, levels, n):
    assert max(data) < levels ** digits(levels)
    return [digit for byte in data for digit in split(byte, levels)][:n]


def planes(n, size, packed, bits):
    count = -(-size // 8)
    if packed:
        data = unpacked(count * n, n * size, bits)
        found = [data[i * n : (i + 1) * n] for i in range(count)]
    else:
        found = [block(n, 256, bits) for _ in range(count)]
    return [sum(plane[i] << 8 * p for p, plane in enumerate(found)) for i in range(n)]


def unpacked(size, most, bits):
    import zstandard

    length = bits.delta()
    assert length <= most
    reader = zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS)
    data = reader.decompress(bits.bytes(length), max_output_size=size)
    assert len(data) == size
    return list(data)


def elias(code, low, high, n, levels, size, bits):
    bits.align()
    found = []
    for _ in range(n):
        x = bits.gamma() if code == "gamma" else bits.delta()
        if low >= 0:
            found.append(x - 1)
        elif high <= 0:
            found.append(high - x + 1 - low)
        else:
            found.append((x // 2 if x % 2 else -(x // 2)) - low)
    return found


def golomb(order, n, levels, size, bits):
    counts, symbol, left = {}, -1, n
    while left:
        symbol += bits.gamma()
        assert symbol < levels
        counts[symbol] = bits.delta()
        left -= counts[symbol]
    assert left == 0
    bits.align()
    sign = 1 if order == "ascending" else -1
    *coded, last = sorted(counts, key=lambda s: (sign * counts[s], s))
    found, free = [last] * n, list(range(n))
    for symbol in coded:
        places = runs(counts[symbol], len(free), bits)
        for place in places:
            found[free[place]] = symbol
        taken = set(places)
        free = [place for i, place in enumerate(free) if i not in taken]
    return found


def auto(low, high, n, levels, size, bits):
    tag = bits.take(3)
    name, options = (
        ("fixed", {}),
        ("rans", {}),
        ("zstd", {}),
        ("elias", {"code": "gamma"}),
        ("elias", {"code": "delta"}),
        ("golomb", {"order": "ascending"}),
    )[tag]
    return [x - low for x in integers((name, options), n, low, high, bits)]
