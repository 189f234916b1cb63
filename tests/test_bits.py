"""BitWriter and BitReader face each other: what one writes the other reads, and nothing else passes."""

import random
import tracemalloc

import numpy as np
import pytest

from fewbits.errors import LocalError, WireError
from fewbits.wire import BitReader, BitWriter

SEEDS = range(20)


def script(seed, steps=200):
    """A random list of ("bits", value, nbits), ("block", bytes) and ("align",) steps."""
    draw = random.Random(seed)
    for _ in range(steps):
        kind = draw.choices(["bits", "block", "align"], [8, 1, 1])[0]
        if kind == "bits":
            nbits = draw.choice([0, 1, 1, 2, 3, 7, 8, 9, 31, 32, 33, 63, 64, 65, 200, 700])
            yield kind, draw.getrandbits(nbits) if nbits else 0, nbits
        elif kind == "block":
            yield kind, draw.randbytes(draw.choice([0, 1, 5, 100]))
        else:
            yield (kind,)


def write(steps):
    out = BitWriter()
    for kind, *rest in steps:
        with out.section(kind):
            {"bits": out.write, "block": out.write_bytes, "align": out.align}[kind](*rest)
    return out


def read(steps, data):
    """Read by the script and check each value; WireError passes through."""
    src = BitReader(data)
    for kind, *rest in steps:
        with src.section(kind):
            if kind == "bits":
                assert src.read(rest[1]) == rest[0]
            elif kind == "block":
                assert src.read_bytes(len(rest[0])).tobytes() == rest[0]
            else:
                src.align()
    src.finish()
    return src


def dumb(steps):
    """The same payload as a string of 0 and 1."""
    text = ""
    for kind, *rest in steps:
        if kind == "bits":
            text += f"{rest[0]:0{rest[1]}b}" if rest[1] else ""
            continue
        text += "0" * (-len(text) % 8)
        if kind == "block":
            text += "".join(f"{byte:08b}" for byte in rest[0])
    text += "0" * (-len(text) % 8)
    return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_written_is_read(seed):
    steps = list(script(seed))
    read(steps, write(steps).finish())


@pytest.mark.parametrize("seed", SEEDS)
def test_bits_come_most_significant_first(seed):
    steps = list(script(seed))
    assert write(steps).finish() == dumb(steps)


@pytest.mark.parametrize("seed", SEEDS)
def test_both_sides_record_the_same_sections(seed):
    steps = list(script(seed))
    out = write(steps)
    assert read(steps, out.finish()).sections == out.sections


@pytest.mark.parametrize("seed", SEEDS)
def test_a_shorter_payload_is_refused(seed):
    steps = [*script(seed, 40), ("bits", 1, 1)]  # ends in a bit, so that every byte is needed
    data = write(steps).finish()
    for cut in range(len(data)):
        with pytest.raises(WireError):
            read_blindly(steps, data[:cut])


@pytest.mark.parametrize("extra", [b"\0", b"\x80", b"\xff" * 9])
def test_a_longer_payload_is_refused(extra):
    for seed in SEEDS:
        steps = list(script(seed, 40))
        data = write(steps).finish()
        with pytest.raises(WireError, match="too long"):
            read_blindly(steps, data + extra)


def read_blindly(steps, data):
    """Read by the script without looking at the values."""
    src = BitReader(data)
    for kind, *rest in steps:
        if kind == "bits":
            src.read(rest[1])
        elif kind == "block":
            src.read_bytes(len(rest[0]))
        else:
            src.align()
    src.finish()


@pytest.mark.parametrize("used", range(1, 8))
@pytest.mark.parametrize("step", [BitReader.align, BitReader.finish, BitReader.rest, lambda src: src.read_bytes(0)])
def test_padding_that_is_not_zero_is_refused(used, step):
    for bad in range(8 - used):
        src = BitReader(bytes([1 << bad]))
        src.read(used)
        with pytest.raises(WireError, match="padding"):
            step(src)


def test_sections_nest_by_path():
    out = BitWriter()
    with out.section("a"):
        out.write(1, 3)
        with out.section("b"):
            out.write(1, 5)
    assert [(s.name, s.start, s.stop) for s in out.sections] == [("a/b", 3, 8), ("a", 0, 8)]


def test_bits_are_counted_as_they_come():
    out, total = BitWriter(), 0
    for nbits in [0, 1, 7, 511, 3, 600]:
        out.write(0, nbits)
        total += nbits
        assert out.bits == total
    src = BitReader(out.finish())
    src.read(500)
    assert (src.bits, src.remaining) == (500, 8 * -(-total // 8) - 500)


def test_a_value_that_does_not_fit_is_refused():
    for value, nbits in [(2, 1), (1, 0), (-1, 8), (256, 8), (0, -1)]:
        with pytest.raises(LocalError, match="does not fit"):
            BitWriter().write(value, nbits)


def test_numpy_integers_are_written_like_plain_ones():
    plain, array = BitWriter(), BitWriter()
    for value, nbits in [(5, 8), (2**60, 61), (3, 2), (2**62, 63), (7, 40)]:
        plain.write(value, nbits)
        array.write(np.int64(value), np.int64(nbits))  # pyright: ignore[reportArgumentType]
    assert array.finish() == plain.finish()


def test_an_array_is_written_as_its_bytes():
    out = BitWriter()
    out.write(1, 1)
    out.write_bytes(np.arange(5, dtype=np.uint8))
    assert out.finish() == b"\x80\x00\x01\x02\x03\x04"


def test_reading_is_a_view_and_rest_does_not_move():
    data = np.arange(10, dtype=np.uint8)
    src = BitReader(data)
    src.read(3)
    assert src.rest().tolist() == list(range(1, 10)) and src.bits == 8
    assert np.shares_memory(src.read_bytes(4), data)
    assert src.rest().tolist() == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda b: np.frombuffer(b, np.uint8)])
def test_any_kind_of_bytes_is_read(kind):
    src = BitReader(kind(b"\xab\xcd"))
    assert src.read(16) == 0xABCD
    BitReader(kind(b"")).finish()


@pytest.mark.parametrize("length", [2, 2**20, 2**40, 2**61, 2**62, 2**63 - 1, 2**200, -1, -(2**61)])
def test_a_length_from_the_wire_is_bounded_before_anything_is_made_of_it(length):
    tracemalloc.start()
    for attempt in (BitReader.read_bytes, lambda src, n: src.read(8 * n), lambda src, n: src.need(8 * n, "x")):
        src = BitReader(b"\x12")
        with pytest.raises(WireError):
            attempt(src, length)
        assert src.bits == 0  # nothing was consumed
        if abs(length) < 2**63:
            with pytest.raises(WireError):
                src.read_bytes(np.int64(length))  # pyright: ignore[reportArgumentType]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**17
