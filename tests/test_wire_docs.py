"""The examples in docs/wire-format.md, read by a reader that was written from that page alone."""

import hashlib
import re
from pathlib import Path

import pytest
import torch

from fewbits import Broadcast, Delta, Key, Raw, Sender, SharedInit, Spec
from fewbits.codecs import LookBack, Quantize, TopK, chain
from fewbits.coders import Rans

PAGE = (Path(__file__).parents[1] / "docs" / "wire-format.md").read_text()


class Bits:
    """A payload as a string of 0 and 1."""

    def __init__(self, data):
        self.text, self.at = "".join(f"{byte:08b}" for byte in data), 0

    def take(self, n):
        self.at += n
        return int("0" + self.text[self.at - n : self.at], 2)

    def align(self):
        assert self.take(-self.at % 8) == 0

    def unary(self):
        zeros = self.text.index("1", self.at) - self.at
        self.at += zeros + 1
        return zeros

    def gamma(self):
        zeros = self.unary()
        return 1 << zeros | self.take(zeros)

    def delta(self):
        size = self.gamma() - 1
        return 1 << size | self.take(size)

    def float32(self, order="little"):
        raw = self.take(32).to_bytes(4, "big" if order == "little" else "little")
        return torch.frombuffer(bytearray(raw), dtype=torch.float32).item()

    def finish(self):
        self.align()
        assert self.at == len(self.text)


def example(title):
    """The payloads printed under a title of the page."""
    after = PAGE.split(f"**`{title}`", 1)[1]
    return [Bits(bytes.fromhex(text)) for text in re.search(r"\n\n((?:    [0-9a-f]+\n)+)", after)[1].split()]


def runs(bits, hits, size):
    q, m = (size - hits) / size, 1
    while q**m * (1 + q) > 1:
        m += 1
    b, position, found = (m - 1).bit_length(), -1, []
    for _ in range(hits):
        gap = bits.unary() * m
        rest = bits.take(b - 1)
        if rest >= (1 << b) - m:
            rest = (rest << 1 | bits.take(1)) - ((1 << b) - m)
        position += 1 + gap + rest
        found.append(position)
    return found


def test_the_sparse_example():
    (bits,) = example("flat(chain(TopK(fraction=0.1), Quantize(bits=4)))")
    k = 4 + 1 - bits.delta()
    assert bits.take(3) == 0
    bits.align()
    support = runs(bits, k, 40)
    bits.align()
    scale = bits.float32()
    levels = [bits.take(4) - 7 for _ in range(k)]
    bits.finish()
    assert (support, scale, levels) == ([3, 17, 18, 36], 7.0, [2, -7, 3, 7])


def test_the_recycled_example():
    full, recycled = example("flat(LookBack(chain(Raw())))")
    assert full.take(1) == 0
    full.align()
    assert [full.float32(), full.float32()] == [1.0, 2.0]
    full.finish()
    assert recycled.take(1) == 1 and recycled.float32("big") == 1.5
    recycled.finish()


def weights(bits, count, mantissa):
    length, found = 0, []
    for _ in range(count):
        code = bits.gamma()
        length += -(code >> 1) if code & 1 else code >> 1
        kept = min(max(0, length - 1), mantissa)
        found.append((1 << kept | bits.take(kept)) << (length - 1 - kept) if length else 0)
    bits.align()
    return found


def frequencies(shares, room):
    total = sum(shares)
    f = [max(1, int(w / total * room)) if w else 0 for w in shares]
    while sum(f) < room:
        f[max((i for i in range(len(f)) if f[i]), key=lambda i: (shares[i] / (f[i] + 0.5), -i))] += 1
    while sum(f) > room:
        f[min((i for i in range(len(f)) if f[i] > 1), key=lambda i: (shares[i] / (f[i] - 0.5), i))] -= 1
    return f


def rans(bits, n, f, room):
    starts, x, found = [sum(f[:s]) for s in range(len(f))], bits.take(32), []
    for _ in range(n):
        s = next(s for s in range(len(f)) if starts[s] <= x % room < starts[s] + f[s])
        found.append(s)
        x = f[s] * (x // room) + x % room - starts[s]
        if x < 2**16:
            x = x << 16 | bits.take(16)
    assert x == 2**16
    return found


def test_the_entropy_coded_example():
    (bits,) = example("flat(chain(Quantize(bits=2), Rans()))")
    assert bits.float32() == 1.0
    assert (bits.take(1), bits.take(2)) == (1, 3)
    bits.align()
    shares = [float(w) for w in weights(bits, 3, 7)]
    digits = [[byte // 3**i % 3 for i in reversed(range(5))] for byte in range(243)]
    products = [float(torch.tensor([shares[d] for d in own], dtype=torch.float64).prod()) for own in digits]
    found = rans(bits, 32, frequencies(products, 2**12), 2**12)
    bits.finish()
    levels = [digit - 1 for byte in found for digit in digits[byte]]
    assert {i: v for i, v in enumerate(levels) if v} == {5: 1, 40: 1, 41: 1, 90: 1, 100: -1, 130: -1}


def vector(n, entries):
    x = torch.zeros(n)
    for i, value in entries.items():
        x[i] = value
    return x


@pytest.mark.parametrize(
    ("codec", "values"),
    [
        (chain(TopK(0.1), Quantize(bits=4)), [vector(40, {3: 1.5, 17: -7, 18: 3.5, 36: 7})]),
        (LookBack(chain(Raw())), [vector(2, {0: 1, 1: 2}), vector(2, {0: 1.5, 1: 3})]),
        (chain(Quantize(bits=2), Rans()), [vector(160, {5: 1, 40: 1, 41: 1, 90: 1, 100: -1, 130: -1})]),
    ],
)
def test_the_library_writes_the_examples(codec, values):
    sender = Sender(codec, Spec.of(values[0]), Key(0))
    assert f"**`{sender.codec!r}`" in PAGE
    for x, bits in zip(values, example(repr(sender.codec)), strict=True):
        frame = sender.send(x)
        sender.commit()
        assert Bits(frame[16:]).text == bits.text


def digest(x):
    return hashlib.blake2b(x.numpy().astype("<f4").tobytes(), digest_size=8, person=b"fewbits.value").hexdigest()


PATCHED = "flat(Delta(chain(TopK(fraction=0.05))))"


def test_the_seed_example():
    (bits,) = example(f"seed of {PATCHED}")
    assert bytes(bits.take(8) for _ in range(bits.take(16))) == b"[3]"
    assert f"{bits.take(64):016x}" == digest(torch.zeros(40))
    bits.finish()


def test_the_patch_example():
    (bits,) = example(f"patch of {PATCHED}")
    assert bits.delta() == 3
    bits.align()
    expected = f"{bits.take(64):016x}"
    k = bits.delta() - 1
    assert bits.take(3) == 0
    bits.align()
    support = runs(bits, k, 40)
    bits.align()
    found = {position: bits.float32() for position in support}
    bits.finish()
    assert found == {3: 0.5, 17: 2.0, 18: 3.5, 36: 7.0} and expected == digest(vector(40, found))


def test_the_library_writes_the_seed_and_the_patch():
    seed = SharedInit(Key(3), lambda key: torch.zeros(40))
    server = Broadcast(Delta(TopK(0.05)), Spec((40,)), Key(0), seed=seed)
    assert repr(server.codec) == PATCHED
    server.publish(torch.zeros(40))
    frames = server.frames(None)
    for entries in ({3: 1.5, 17: -7}, {3: 1.5, 17: 2, 18: 3.5}, {3: 0.5, 17: 2, 18: 3.5, 36: 7}):
        server.publish(vector(40, entries))
    for kind, (frame,) in (("seed of ", frames), ("patch of ", server.frames(1))):
        assert Bits(frame[16:]).text == example(kind + PATCHED)[0].text
