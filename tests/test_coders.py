"""Laws of the lossless coders, held over every coder, range and awkward input."""

from __future__ import annotations

import math
from collections.abc import Iterator

import constriction
import numpy as np
import pytest

from fewbits import kernels
from fewbits.coders import (
    Auto,
    Coder,
    Elias,
    Fixed,
    Golomb,
    Rans,
    Zstd,
    delta_bits,
    gamma_bits,
    predicted_bits,
    read_delta,
    read_gamma,
    write_delta,
    write_gamma,
)
from fewbits.coders.golomb import parameter
from fewbits.errors import LocalError, WireError
from fewbits.spec import Spec
from fewbits.testing import check_coder
from fewbits.testing.coder_laws import takes
from fewbits.testing.levels import RANGES, bell, levels, read_all, written
from fewbits.wire import BitReader, BitWriter

CODERS = [coder for kind in (Fixed, Elias, Golomb, Rans, Zstd, Auto) for coder in kind.examples()]


@pytest.mark.parametrize("coder", CODERS, ids=repr)
def test_obeys(coder: Coder) -> None:
    check_coder(coder)


@pytest.mark.parametrize("coder", CODERS, ids=repr)
@pytest.mark.parametrize("kind", RANGES, ids=str)
def test_only_golomb_refuses_a_range(coder: Coder, kind: tuple[str, int, int]) -> None:
    spec = Spec((9,), *kind)
    assert takes(coder, spec) == (not isinstance(coder, Golomb) or spec.levels <= 2**16)


def entropy_bits(values: np.ndarray) -> float:
    counts = np.unique(values, return_counts=True)[1]
    return float(counts @ np.log2(counts.sum() / counts))


def test_reading_takes_memory_only_as_the_spec_and_the_bytes_allow() -> None:
    spec = Spec((10**12,), "int8", -7, 7)  # a frame of a few bytes for a terabyte of levels
    for coder in (Fixed(), Elias(), Golomb()):
        with pytest.raises(WireError):
            coder.read(
                spec if not isinstance(coder, Golomb) else Spec((2**31,), "int8", -7, 7), BitReader(b"\xff" * 40)
            )


@pytest.mark.parametrize("coder", [Rans(), Golomb(), Auto()], ids=repr)
def test_entropy_coders_come_within_two_percent_of_entropy(coder: Coder) -> None:
    for n in (100_000, 1_000_000):
        generator = np.random.default_rng(5)
        values, spec = bell(n)
        ternary = generator.choice(np.array([-1, 0, 1], np.int8), n, p=[0.1, 0.8, 0.1])
        sparse = np.where(generator.random(n) < 0.05, values, 0).astype(np.int8)
        for found, its_spec in ((values, spec), (ternary, Spec((n,), "int8", -1, 1)), (sparse, spec)):
            assert written(coder, found, its_spec).bits <= 1.02 * entropy_bits(found) + 64 + 500 * (n < 10**6)


def test_rans_is_tight() -> None:
    for n, slack in ((1_000_000, 1.003), (100_000, 1.01)):
        values, spec = bell(n)
        assert written(Rans(), values, spec).bits <= slack * entropy_bits(values)


def reference_bits(values: np.ndarray, spec: Spec) -> int:
    """The shorter of constriction's coders under the empirical model, and a plain table of how often each level is."""
    assert spec.low is not None
    symbols = values.astype(np.int32) - spec.low
    counts = np.bincount(symbols, minlength=spec.levels)
    model = constriction.stream.model.Categorical(counts / spec.numel, perfect=False)
    ans, ranges = constriction.stream.stack.AnsCoder(), constriction.stream.queue.RangeEncoder()
    ans.encode_reverse(symbols, model)
    ranges.encode(symbols, model)
    table = spec.levels + np.count_nonzero(counts) * spec.numel.bit_length()  # which there are, and their counts
    return min(ans.num_bits(), ranges.num_bits()) + int(table)


@pytest.mark.parametrize(
    "kind", [("uint8", 0, 1), ("int8", -1, 1), ("int8", -2, 2), ("int8", -7, 7), ("uint8", 0, 255)]
)
def test_rans_is_within_a_percent_of_another_librarys_entropy_coders(kind: tuple[str, int, int]) -> None:
    """For independent levels of at most a byte and at least 0.3 bits.

    Wider ones are coded byte by byte, which loses more; and beside cheaper ones, the 50 bytes by which the table of
    joined levels is longer are more than a percent.
    """
    generator, (_, low, high), n = np.random.default_rng(15), kind, 200_000
    spec = Spec((n,), *kind)
    levels = np.arange(low, high + 1)
    for spread in (0.3, 0.5):
        bell_shaped = np.rint(generator.normal((low + high) / 2, spread * (high - low) / 2, n))
        geometric = max(0, low) + (generator.geometric(0.6, n) - 1) * generator.choice([1, -1 if low < 0 else 1], n)
        any_shape = generator.choice(levels, n, p=generator.dirichlet(np.ones(len(levels))))
        for values in (bell_shaped, geometric, any_shape):
            values = np.clip(values, low, high).astype(spec.dtype)
            assert entropy_bits(values) > 0.3 * n
            assert written(Rans(), values, spec).bits <= 1.01 * reference_bits(values, spec)


def test_zstd_looks_for_no_repeats_that_come_by_chance() -> None:
    rng, n = np.random.default_rng(0), 10**6
    sizes = rng.laplace(size=n)
    levels = np.sign(sizes) * np.floor(np.abs(sizes) / np.abs(sizes).max() * 7 + rng.random(n))  # 4 bit, dithered
    values, spec = levels.astype(np.int8), Spec((n,), "int8", -7, 7)
    assert written(Zstd(), values, spec).bits < 1.025 * entropy_bits(values)
    repeated = np.tile(values[:5000], 200)
    assert written(Zstd(), repeated, spec).bits < 2 * written(Zstd(), values[:5000], Spec((5000,), "int8", -7, 7)).bits


def test_rans_goes_below_entropy_when_neighbours_agree() -> None:
    values, spec = bell(100_000)
    assert written(Rans(), np.repeat(values[:50_000], 2), spec).bits < 0.6 * entropy_bits(values)


@pytest.mark.parametrize("kind", RANGES, ids=str)
def test_rans_and_zstd_lose_a_byte_at_most_to_fixed_width(kind: tuple[str, int, int]) -> None:
    generator = np.random.default_rng(9)
    for n in (1, 5, 33, 1000, 5001):
        spec = Spec((n,), *kind)
        for values in levels(spec, generator):
            for coder in (Rans(), Zstd()):
                assert written(coder, values, spec).bits <= Fixed().payload_bits(spec) + 8


def test_auto_is_the_shortest_and_three_bits() -> None:
    for n in (50, 3000):
        for values, spec in ((bell(n)), (np.zeros(n, np.int8), Spec((n,), "int8", -7, 7))):
            shortest = min(written(coder, values, spec).bits for coder in (Fixed(), Elias(), Golomb(), Rans(), Zstd()))
            assert written(Auto(), values, spec).bits <= shortest + 3 + 7


def plain_fixed(values: np.ndarray, spec: Spec) -> str:
    assert spec.low is not None
    width = (spec.levels - 1).bit_length()
    return "".join(format(int(v) - spec.low, f"0{width}b") for v in values)


def bit_string(data: bytes, nbits: int) -> str:
    return "".join(format(byte, "08b") for byte in data)[:nbits]


@pytest.mark.parametrize("high", [1, 2, 3, 6, 15, 16, 40, 127, 200, 255, 1000, 40_000, 10**6, 2**33, 2**62])
def test_fixed_writes_each_symbol_in_its_width(high: int) -> None:
    spec = Spec((77,), "int64", 0, high)
    values = np.random.default_rng(2).integers(0, high + 1, 77)
    out = written(Fixed(), values, spec)
    nbits = out.bits
    data = out.finish()
    assert bit_string(data, nbits) == plain_fixed(values, spec)
    assert np.array_equal(read_all(Fixed(), data, spec), values)


def plain_gamma(x: int) -> str:
    return "0" * (x.bit_length() - 1) + format(x, "b")


def plain_delta(x: int) -> str:
    return plain_gamma(x.bit_length()) + format(x, "b")[1:]


@pytest.mark.parametrize(("code", "plain"), [("gamma", plain_gamma), ("delta", plain_delta)])
def test_elias_writes_the_textbook_codes(code: str, plain: object) -> None:
    assert callable(plain)
    values = np.random.default_rng(4).integers(-90_000, 90_001, 200).astype(np.int32)
    for low, high, number in (
        (-90_000, 90_000, lambda v: 2 * v + 1 if v >= 0 else -2 * v),
        (5, 200_000, lambda v: v - 4),
        (-300_000, 0, lambda v: 1 - v),
    ):
        levels = np.clip(values, low, high)
        out = written(Elias(code), levels, Spec((200,), "int32", low, high))
        nbits = out.bits
        assert bit_string(out.finish(), nbits) == "".join(plain(number(int(v))) for v in levels)


def test_single_elias_codes_keep_their_bound() -> None:
    for write, read, size, plain in (
        (write_gamma, read_gamma, gamma_bits, plain_gamma),
        (write_delta, read_delta, delta_bits, plain_delta),
    ):
        for value in (*range(1, 40), 255, 256, 10**6, 2**40):
            out = BitWriter()
            write(value, out)
            assert out.bits == size(value) == len(plain(value))
            data = out.finish()
            assert bit_string(data, size(value)) == plain(value)
            assert read(BitReader(data), value) == value
            with pytest.raises(WireError):
                read(BitReader(data), value - 1)
        with pytest.raises(LocalError):
            write(0, BitWriter())


def plain_golomb(run: int, m: int) -> str:
    b = (m - 1).bit_length()
    short, rest = 2**b - m, run % m
    unary = "0" * (run // m) + "1"
    if rest < short:
        return unary + (format(rest, f"0{b - 1}b") if b > 1 else "")
    return unary + (format(rest + short, f"0{b}b") if b else "")


def plain_vector_source_coder(levels: list[int], ascending: bool) -> str:
    """Section 3 of the paper, word for word and slowly."""
    counts = {a: levels.count(a) for a in sorted(set(levels))}
    text, previous = "", -1
    for a, m in counts.items():
        text += plain_gamma(a - previous) + plain_delta(m)
        previous = a
    text += "0" * (-len(text) % 8)
    left = levels
    for a in sorted(counts, key=lambda a: (counts[a] if ascending else -counts[a], a))[:-1]:
        q = 1 - counts[a] / len(left)
        m = math.ceil(-math.log(1 + q) / math.log(q))
        run = 0
        for level in left:
            if level == a:
                text += plain_golomb(run, m)
                run = 0
            else:
                run += 1
        left = [level for level in left if level != a]
    return text


@pytest.mark.parametrize("coder", Golomb.examples(), ids=repr)
def test_golomb_is_the_papers_coder(coder: Golomb) -> None:
    generator = np.random.default_rng(6)
    for kind in (("int8", -7, 7), ("int8", -1, 1), ("int16", -300, 700), ("uint8", 0, 255)):
        for n in (1, 2, 33, 700):
            spec = Spec((n,), *kind)
            assert spec.low is not None
            for values in levels(spec, generator):
                out = written(coder, values, spec)
                nbits = out.bits
                plain = plain_vector_source_coder((values.astype(int) - spec.low).tolist(), coder.order == "ascending")
                assert bit_string(out.finish(), nbits) == plain


def test_golomb_parameter_is_the_papers_formula() -> None:
    for size in (2, 3, 10, 1000, 10**6, 2**31):
        for hits in {1, 2, size // 3, size // 2, size - 1} - {0, size}:
            q = 1 - hits / size
            ideal = -math.log(1 + q) / math.log(q)
            at_a_step = abs(ideal - round(ideal)) < 1e-6 * ideal  # where logarithms round either way
            slack = 1 + 1e-7 * ideal if at_a_step else 0
            assert abs(parameter(hits, size) - math.ceil(ideal)) <= slack


def sparse_levels(n: int, generator: np.random.Generator) -> Iterator[tuple[np.ndarray, Spec]]:
    """95% zeros, ternary and 4 bits."""
    few = (generator.random(n) < 0.05) * generator.choice([-1, 1], n)
    yield few.astype(np.int8), Spec((n,), "int8", -1, 1)
    yield (few * np.minimum(generator.geometric(0.5, n), 7)).astype(np.int8), Spec((n,), "int8", -7, 7)


def test_golomb_length_is_predicted() -> None:
    generator = np.random.default_rng(10)
    for n in (100_000, 1_000_000):
        spec = Spec((n,), "int8", -7, 7)
        geometric = np.minimum(generator.geometric(0.6, n) - 1, 7) * generator.choice([-1, 1], n)
        dense = [(geometric.astype(np.int8), spec), (bell(n)[0], spec)]
        for values, spec in (*dense, *sparse_levels(n, generator)):
            assert spec.low is not None
            counts = np.bincount(values.astype(int) - spec.low)
            noise = 0.001 if n < 1_000_000 else 0.0005  # the form is an expectation
            assert written(Golomb(), values, spec).bits == pytest.approx(predicted_bits(counts), rel=noise, abs=8)


def test_golomb_comes_within_one_percent_of_the_entropy_of_a_million_levels() -> None:
    generator = np.random.default_rng(11)
    for values, spec in (bell(1_000_000), *sparse_levels(1_000_000, generator)):
        shares = np.unique(values, return_counts=True)[1] / spec.numel
        entropy = -float(np.dot(shares, np.log2(shares))) * spec.numel
        assert entropy < written(Golomb(), values, spec).bits < 1.01 * entropy


def test_ascending_order_beats_descending() -> None:
    values, spec = bell(50_000)
    values = np.where(np.random.default_rng(1).random(50_000) < 0.05, values, 0).astype(np.int8)
    assert written(Golomb(), values, spec).bits < 0.5 * written(Golomb("descending"), values, spec).bits


def plain_rans(data: np.ndarray, frequency: np.ndarray, bits: int, lanes: int) -> list[int]:
    start = np.concatenate([[0], np.cumsum(frequency)]).tolist()
    states, stack = [1 << 16] * lanes, []
    for i in reversed(range(len(data))):
        f, x = int(frequency[data[i]]), states[i % lanes]
        if x >= f << (32 - bits):
            stack.append(x & 0xFFFF)
            x >>= 16
        states[i % lanes] = (x // f << bits) + start[data[i]] + x % f
    return [part for x in states for part in (x >> 16, x & 0xFFFF)] + stack[::-1]


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("bits", [12, 15])
def test_rans_kernel_is_the_plain_recurrence(lanes: int, bits: int) -> None:
    generator = np.random.default_rng(13)
    for size in (2, 15, 225, 256):
        for n in (0, 1, 3, 4, 5, 2003):
            data = np.minimum(generator.geometric(min(0.7, 4 / size), n) - 1, size - 1).astype(np.uint8)
            frequency = kernels.rans.normalise(np.bincount(data, minlength=size) + 0.01, bits)
            assert frequency.sum() == 1 << bits and frequency.min() >= 1
            out = np.empty(n + 8, np.uint16)
            words = out[kernels.rans.encode(data, frequency, bits, lanes, out) :].copy()
            assert words.tolist() == plain_rans(data, frequency, bits, lanes)
            found = np.empty(n, np.uint8)
            assert kernels.rans.decode(words, frequency, bits, lanes, found) == len(words)
            assert np.array_equal(found, data)


def test_kernels_do_what_their_numpy_statement_says() -> None:
    generator = np.random.default_rng(14)
    symbols = generator.integers(0, 3, 1003, np.uint8)
    assert np.array_equal(kernels.bits.histogram(symbols, 5), np.bincount(symbols, minlength=5))
    for base, count in ((3, 5), (6, 3), (15, 2)):
        out = np.empty(-(-1003 // count), np.uint8)
        assert kernels.bits.join(symbols + np.uint8(249), 249, base, count, 1, out) == 2
        padded = np.append(symbols, np.ones(-1003 % count, np.uint8)).reshape(-1, count)
        assert np.array_equal(out, padded @ base ** np.arange(count)[::-1])


@pytest.mark.parametrize("make", [lambda: Elias("omega"), lambda: Golomb("random"), lambda: Zstd(0)])
def test_bad_settings_are_refused_at_construction(make: object) -> None:
    assert callable(make)
    with pytest.raises(LocalError):
        make()


def test_too_many_levels_are_refused() -> None:
    with pytest.raises(LocalError):
        written(Golomb(), np.zeros(1, np.int32), Spec((1,), "int32", 0, 2**16))
    with pytest.raises(LocalError):
        written(Elias(), np.zeros(1, np.int64), Spec((1,), "int64", 0, 2**33))
