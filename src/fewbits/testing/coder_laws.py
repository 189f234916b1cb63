"""Laws of coders: every level comes back, bit for bit, and hostile bytes give a WireError."""

from __future__ import annotations

from typing import Any

import numpy as np

from fewbits.coders import Coder
from fewbits.errors import LocalError, WireError
from fewbits.spec import Spec
from fewbits.testing.identity_laws import has_a_unique_name, is_the_same, repr_builds_an_equal_value, twins
from fewbits.testing.law import During, Law, demand, short
from fewbits.testing.levels import MOST_LEVELS, RANGES, SIZES, bell, levels, read_all, written
from fewbits.testing.memory import takes_memory_for
from fewbits.wire import BitReader, BitWriter

FLOATS = {"float16": np.uint16, "bfloat16": np.uint16, "float32": np.uint32, "float64": np.uint64}


def coder_law(function: Any) -> Law[Coder]:
    """A law of every coder: called with a coder."""
    return Law(function, lambda coder: [coder])


@coder_law
def a_coder_has_a_unique_wire_name(coder: Coder) -> None:
    """The coder is a frozen dataclass with a `wire_name` that no class of fewbits has."""
    has_a_unique_name(coder)


@coder_law
def equal_coders_have_one_identity(coder: Coder) -> None:
    """Coders that differ in the types of their numbers, such as 1 and 1.0, have one identity."""
    for twin in twins(coder):
        is_the_same(twin, coder)


@coder_law
def repr_builds_an_equal_coder(coder: Coder) -> None:
    """`repr` is the call that builds an equal coder."""
    repr_builds_an_equal_value(coder)


def takes(coder: Coder, spec: Spec) -> bool:
    """False for a coder that refuses more than 2^16 levels with a LocalError, which is allowed."""
    if spec.levels <= MOST_LEVELS:
        return True
    try:
        written(coder, np.full(spec.numel, spec.low, spec.dtype), spec)
    except LocalError:
        return False
    return True


@coder_law
def levels_come_back_bit_for_bit(coder: Coder) -> None:
    """`read` gives the levels that `write` got, and `payload_bits` is their exact size."""
    for kind in RANGES:
        generator = np.random.default_rng(7)
        for spec in (Spec((n,), *kind) for n in SIZES):
            for values in levels(spec, generator) if takes(coder, spec) else ():
                _comes_back(coder, values, spec)


def _comes_back(coder: Coder, values: np.ndarray, spec: Spec) -> None:
    with During("Coding", (spec, values), allows=AssertionError):
        out = written(coder, values, spec)
        bits, expected = out.bits, coder.payload_bits(spec)
        found = read_all(coder, out.finish(), spec)
    fits = found.dtype == values.dtype and np.array_equal(found, values)
    demand(fits, "Other levels came back", spec=spec, written=values, read=found)
    demand(
        expected is None or expected == bits,
        "The output is not as long as promised",
        spec=spec,
        input=values,
        promised_bits=expected,
        bits=bits,
    )


@coder_law
def float_words_come_back_bit_for_bit(coder: Coder) -> None:
    """A coder with `floats` gives back the words of floats, bit for bit."""
    for dtype, kind in FLOATS.items() if coder.floats else ():
        generator = np.random.default_rng(8)
        for spec in (Spec((n,), dtype) for n in SIZES):
            n, shift = spec.numel, np.uint64(64 - spec.bits)
            _comes_back(coder, generator.integers(0, np.iinfo(kind).max, n, dtype=kind, endpoint=True), spec)
            _comes_back(coder, np.zeros(n, kind), spec)
            normal = generator.normal(size=n).astype(np.float64).view(np.uint64)
            _comes_back(coder, (normal >> shift).astype(kind), spec)


@coder_law
def long_levels_come_back(coder: Coder) -> None:
    """Thousands of levels come back, bit for bit."""
    for n in (4096, 16_385, 40_001):
        _comes_back(coder, *bell(n))


@coder_law
def a_coder_may_start_between_bytes_and_be_followed(coder: Coder) -> None:
    """Levels come back when bits stand before and after them, and `read` stops at their end."""
    values, spec = bell(100)
    out = BitWriter()
    out.write(5, 3)
    coder.write(values, spec, out)
    out.write(2, 3)
    src = BitReader(out.finish())
    before = src.read(3)
    found = coder.read(spec, src)
    after = src.read(3)
    demand((before, after) == (5, 2), "The bits around the levels changed", written=(5, 2), read=(before, after))
    demand(np.array_equal(found, values), "Other levels came back", written=values, read=found)
    src.finish()


@coder_law
def one_level_and_no_elements_cost_nothing(coder: Coder) -> None:
    """Nothing is written when the Spec leaves no choice: one level, or no elements."""
    for spec in (Spec((9,), "int8", 4, 4), Spec((0,), "int8", -7, 7)):
        bits = written(coder, np.full(spec.numel, 4, np.int8), spec).bits
        demand(bits == 0, "Bits were written", spec=spec, bits=bits)


@coder_law
def wrong_values_are_the_callers_mistake(coder: Coder) -> None:
    """Levels outside the range, of another number or dtype, are a LocalError."""
    spec = Spec((3,), "int8", -7, 7)
    outside = [np.array([0, 8, 0], np.int8), np.array([-8, 0, 0], np.int8)]
    for values in (*outside, np.zeros(2, np.int8), np.zeros(3, np.int16)):
        try:
            with During("Writing", values, allows=LocalError):
                out = written(coder, values, spec)
        except LocalError:
            continue
        raise AssertionError(f"{spec} {short(values)} {values.dtype} was written as {out.finish().hex()}")


def _check_harmless(coder: Coder, data: bytes, spec: Spec) -> bool:
    """Whether the bytes were read; a WireError or values that the Spec allows must come of them."""
    assert spec.low is not None and spec.high is not None
    try:
        with During("Reading hostile bytes", data, allows=WireError):
            values = read_all(coder, data, spec)
    except WireError:
        return False
    fits = values.dtype == spec.dtype and values.shape == (spec.numel,)
    demand(fits, "Levels of another dtype or number were read", bytes=data, spec=spec, read=values)
    within = values.size == 0 or (spec.low <= values.min() and values.max() <= spec.high)
    demand(bool(within), "Levels outside the range were read", bytes=data, spec=spec, read=values)
    return True


@coder_law
def damaged_bytes_never_give_values_out_of_range(coder: Coder) -> None:
    """Bytes that were cut or extended are a WireError; flipped bits, too, or give levels of the Spec."""
    for kind in (("int8", -7, 7), ("int8", -1, 1), ("int16", -300, 700), ("int8", 0, 4)):
        spec = Spec((300,), *kind)
        for values in levels(spec, np.random.default_rng(11))[3:5]:
            _attack(coder, written(coder, values, spec).finish(), spec)


def _attack(coder: Coder, data: bytes, spec: Spec) -> None:
    for cut in range(len(data)):
        demand(not _check_harmless(coder, data[:cut], spec), "Bytes that were cut were read", bytes=data[:cut])
    demand(not _check_harmless(coder, data + b"\0", spec), "Bytes after the end were ignored", bytes=data)
    for bit in range(0, 8 * len(data), 3):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 128 >> bit % 8
        _check_harmless(coder, bytes(damaged), spec)


@coder_law
def random_bytes_never_give_values_out_of_range(coder: Coder) -> None:
    """Random bytes are a WireError or give levels of the Spec."""
    generator = np.random.default_rng(12)
    for kind in (("int8", -7, 7), ("int8", -1, 1), ("int16", -300, 700)):
        for n in (1, 40, 5000):
            for size in (0, 1, 5, 60, 2000):
                data = generator.integers(0, 256, size, np.uint8) >> generator.integers(0, 8)
                for first in (0, 64, 128, 192, 224):
                    head = bytes([first | int(data[0]) & 31]) if size else b""
                    _check_harmless(coder, head + data.tobytes()[1:], Spec((n,), *kind))


@coder_law
def reading_takes_memory_only_as_the_spec_and_the_bytes_allow(coder: Coder) -> None:
    """A few hostile bytes for a hundred thousand levels take at most 40 bytes of memory a level."""
    spec, generator = Spec((100_000,), "int8", -7, 7), np.random.default_rng(13)
    hostile = [bytes([first]) + generator.bytes(size) for first in (0, 64, 128, 192, 224) for size in (0, 8, 40)]

    def read() -> None:
        for data in (*hostile, b"\xff" * 40):
            _check_harmless(coder, data, spec)

    takes_memory_for(spec.numel, read)
