"""The worked examples in docs/wire-format.md, read field by field."""

import hashlib
import re
from pathlib import Path

import pytest
import torch

from fewbits import Delta, Key, Raw, Sender, Spec
from fewbits.codecs import LookBack, Quantize, TopK, chain
from fewbits.coders import Rans
from fewbits.links import Broadcast, SharedInit
from second_decoder.bits import Bits
from second_decoder.blocks import block, split
from second_decoder.supports import runs

PAGE = (Path(__file__).parents[1] / "docs" / "wire-format.md").read_text()


def float32(bits):
    """One of an array, which is little-endian."""
    return torch.frombuffer(bytearray(bits.bytes(4)), dtype=torch.float32).item()


def example(title):
    """The payloads printed under a title of the page."""
    after = PAGE.split(f"**`{title}`", 1)[1]
    return [Bits(bytes.fromhex(text)) for text in re.search(r"```text\n((?:[0-9a-f]+\n)+)```", after)[1].split()]


def test_the_sparse_example():
    (bits,) = example("flat(chain(TopK(fraction=0.1), Quantize(bits=4)))")
    k = 4 + 1 - bits.delta()
    assert bits.take(3) == 0
    bits.align()
    support = runs(k, 40, bits)
    bits.align()
    scale = float32(bits)
    levels = [bits.take(4) - 7 for _ in range(k)]
    bits.finish()
    assert (support, scale, levels) == ([3, 17, 18, 36], 7.0, [2, -7, 3, 7])


def test_the_recycled_example():
    full, recycled = example("flat(LookBack(chain(Raw())))")
    assert full.take(1) == 0
    full.align()
    assert [float32(full), float32(full)] == [1.0, 2.0]
    full.finish()
    assert recycled.take(1) == 1 and recycled.scalar() == 1.5
    recycled.finish()


def test_the_entropy_coded_example():
    (bits,) = example("flat(chain(Quantize(bits=2), Rans()))")
    assert float32(bits) == 1.0
    assert bits.take(1) == 1 and bits.text[bits.at : bits.at + 2] == "11"
    found = block(32, 3, bits)
    bits.finish()
    levels = [digit - 1 for byte in found for digit in split(byte, 3)]
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
    support = runs(k, 40, bits)
    bits.align()
    found = {position: float32(bits) for position in support}
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
