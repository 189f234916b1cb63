"""The compiled loops for selection and quantisation against their NumPy meaning."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from fewbits import kernels
from fewbits.errors import LocalError

LARGEST = np.float32(np.finfo(np.float32).max)
TINIEST = np.float32(1e-45)  # the smallest denormal


def normal(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n, dtype=np.float32)


def hard_vectors() -> dict[str, np.ndarray]:
    x, n = normal(40_000), 40_000
    late = np.zeros(n, np.float32)
    late[-500:] = normal(500)
    return {
        "empty": x[:0],
        "normal": x,
        "odd length": x[:20_011],
        "ascending": np.sort(x),
        "descending": np.sort(x)[::-1].copy(),
        "constant": np.full(n, -1.5, np.float32),
        "zeros": np.zeros(n, np.float32),
        "negative zeros": np.full(n, -0.0, np.float32),
        "mostly zero": np.where(np.abs(x) > 2.8, x, np.float32(-0.0)),
        "nonzero only at the end": late,
        "two sizes": np.where(x > 0, np.float32(-2), np.float32(1)),
        "few sizes": np.round(2 * x) / 2,
        "ties at the threshold": np.where(np.abs(x) > 2.5, np.float32(3), np.where(x > 1.5, np.float32(2), x)),
        "heavy tail": x / (np.abs(normal(n, 1)) + np.float32(1e-6)),
        "narrow": 1 + np.float32(1e-6) * x,
        "denormal": (x * 50).astype(np.int32).astype(np.float32) * TINIEST,
        "all exponents": np.ldexp(x, np.arange(n) % 250 - 140).astype(np.float32),
        "extremes": np.where(x > 1, LARGEST, np.where(x > 0, TINIEST, -LARGEST)),
        "periodic": np.tile(normal(1000), 40),
    } | {f"{n} entries": np.round(normal(n) * 2) for n in range(1, 34)}


def top_k(x: np.ndarray, k: int) -> np.ndarray:
    size = np.abs(x)
    order = np.lexsort((np.arange(len(x)), -size))[:k]
    return np.sort(order[size[order] > 0])


@pytest.mark.parametrize("name", hard_vectors())
def test_largest_is_the_head_of_a_full_stable_sort(name: str) -> None:
    x = hard_vectors()[name]
    n = len(x)
    for k in sorted({0, 1, 2, 3, 7, n // 1000, n // 100, n // 10, n // 2, n - 1, n, n + 5} - {-1}):
        found = kernels.select.largest(x, k)
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, top_k(x, k), err_msg=f"k={k}")


def test_largest_is_exact_when_the_sample_misleads() -> None:
    n, k = 60_000, 600
    for seed in range(20):
        x = normal(n, seed) * np.float32(0.01)
        start = seed * 2000
        x[start : start + k + seed] += 5  # in one place, where a sample has few entries
        x[::30] = 0.5  # a stride of ties
        np.testing.assert_array_equal(kernels.select.largest(x, k), top_k(x, k))
        np.testing.assert_array_equal(kernels.select.largest(x, 1700), top_k(x, 1700))


def test_a_nan_is_larger_than_every_number_and_harms_nothing() -> None:
    x = normal(30_000)
    x[[5, 20_000]] = np.nan, np.inf
    np.testing.assert_array_equal(kernels.select.largest(x, 2), [5, 20_000])
    assert kernels.select.first_bad(x) == 2


@pytest.mark.parametrize("name", hard_vectors())
def test_above_is_a_comparison_with_the_exact_threshold(name: str) -> None:
    x = hard_vectors()[name]
    for tau in (-1.0, 0.0, 1e-45, 1e-46, 0.1, 1.5, np.nextafter(1.5, 2), 2.0, float(LARGEST), 1e39, math.inf):
        expected = np.flatnonzero((np.abs(x.astype(np.float64)) >= tau) & (x != 0))
        np.testing.assert_array_equal(kernels.select.above(x, tau), expected, err_msg=f"tau={tau}")
    with pytest.raises(LocalError, match="NaN"):
        kernels.select.above(x, math.nan)


def test_scatter_puts_back_and_scatter_add_rounds_as_numpy_does() -> None:
    x, n = normal(5000), 5000
    chosen = kernels.select.largest(x, 400)
    expected = np.zeros(n, np.float32)
    expected[chosen] = x[chosen]
    np.testing.assert_array_equal(kernels.select.scatter(chosen, x[chosen], n), expected)
    acc, repeated = normal(n, 1), np.concatenate([chosen, chosen[:7]])
    values, dense = normal(407, 2), acc.copy()
    np.add.at(dense, repeated, np.float32(0.3) * values)
    kernels.select.scatter_add(acc, repeated, values, 0.3)
    np.testing.assert_array_equal(acc, dense)


def test_scatter_refuses_what_would_write_elsewhere() -> None:
    one = np.ones(1, np.float32)
    for bad in (-1, 5):
        with pytest.raises(LocalError, match=r"0\.\.4"):
            kernels.select.scatter(np.array([bad]), one, 5)
        with pytest.raises(LocalError, match=r"0\.\.4"):
            kernels.select.scatter_add(np.zeros(5, np.float32), np.array([bad]), one, 1.0)
    with pytest.raises(LocalError, match="one value per index"):
        kernels.select.scatter(np.array([0, 1]), one, 5)
    for acc in (np.zeros(5), np.zeros(10, np.float32)[::2], np.frombuffer(bytes(20), np.float32)):
        with pytest.raises(LocalError, match="writable"):
            kernels.select.scatter_add(acc, np.array([0]), one, 1.0)


def test_first_bad_counts_what_is_not_finite() -> None:
    x = normal(10_007)
    assert kernels.select.first_bad(x) == 0 == kernels.select.first_bad(x[:0])
    x[[0, 17, 5000, 10_006]] = np.nan, np.inf, -np.inf, -np.nan
    x[1], x[2] = LARGEST, TINIEST
    assert kernels.select.first_bad(x) == 4


def test_read_only_shifted_and_strided_inputs_are_the_same_to_a_kernel() -> None:
    x = normal(3000)
    kernels.select.largest(x, 30)
    compiled = len(kernels.select._collect.signatures)
    shifted = np.frombuffer(b"-" + x.tobytes(), np.float32, offset=1)  # not aligned, not writable
    strided = np.repeat(x, 2)[::2]
    for y in (np.frombuffer(x.tobytes(), np.float32), shifted, strided, x.astype(np.float64)):
        np.testing.assert_array_equal(kernels.select.largest(y, 30), top_k(x, 30))
    assert len(kernels.select._collect.signatures) == compiled
    with pytest.raises(LocalError, match="1-D"):
        kernels.select.largest(x.reshape(30, 100), 3)


def cuts(n: int) -> list[np.ndarray]:
    """Whole, in tensors (some empty), in buckets."""
    third = n // 3
    buckets = [np.minimum(np.arange(-(-n // b) + 1) * b, n) for b in (1, 8, 100)]
    return [np.array([0, n]), np.array([0, 0, third, third, n, n]), *buckets]


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 1000])
def test_measures_of_stretches(n: int) -> None:
    x = normal(n) * 3
    for offsets in cuts(n):
        parts = [x[a:b].astype(np.float64) for a, b in itertools.pairwise(offsets)]
        measured = [
            f(x, offsets) for f in (kernels.quantise.max_abs, kernels.quantise.norms, kernels.quantise.mean_abs)
        ]
        assert all(m.dtype == np.float32 and m.shape == (len(parts),) for m in measured)
        np.testing.assert_array_equal(measured[0], [np.abs(p).max(initial=0) for p in parts])
        np.testing.assert_allclose(measured[1], [np.linalg.norm(p) for p in parts], rtol=1e-7)
        np.testing.assert_allclose(measured[2], [np.abs(p).mean() if len(p) else 0 for p in parts], rtol=1e-7)


def test_measures_at_the_ends_of_float32() -> None:
    whole = np.array([0, 100])
    big, small = np.full(100, -LARGEST), np.full(100, TINIEST)
    for measure in (kernels.quantise.max_abs, kernels.quantise.norms, kernels.quantise.mean_abs):
        assert measure(big, whole)[0] == LARGEST  # the norm is ten times beyond
        assert measure(small, whole)[0] == (10 * TINIEST if measure is kernels.quantise.norms else TINIEST)
    assert np.signbit(kernels.quantise.max_abs(np.array([-0.0], np.float32), np.array([0, 1])))[0] == 0


def uniform(n: int, seed: int) -> np.ndarray:
    """The dither's noise, in Python integers."""
    z = (seed + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    z ^= z >> 31
    h = (np.arange(n, dtype=np.uint64) * (z >> 32 | 1) + z % 2**32) % 2**32
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        h = (h ^ h >> np.uint64(shift)) * np.uint64(factor) % np.uint64(2**32)
    return (h ^ h >> np.uint64(15)) // np.uint64(256) * 2.0**-24


SCALES = [1.0, 0.7, 1e-45, 1e-40, 2e-38, 1e-30, 1e-17, 1e19, 1e30, 3e38, float(LARGEST)]


@pytest.mark.parametrize("s", [1, 3, 7, 100, 127, 128, 255, 2047, 32767])
@pytest.mark.parametrize("scale", SCALES)
def test_dither_is_its_formula_to_2_to_the_minus_16(scale: float, s: int) -> None:
    n, scales = 3000, np.array([scale], np.float32)
    x = np.clip(normal(n) / 3, -1, 1) * scales[0]
    x[:3] = scales[0], -scales[0], 0
    levels = kernels.quantise.dither(x, np.array([0, n]), scales, s, seed=11)
    assert levels.dtype == (np.int8 if s <= 127 else np.int16)
    exact = s * np.abs(x.astype(np.float64)) / float(scales[0]) + uniform(n, 11)
    size = np.abs(levels.astype(np.int64))
    assert np.all(size <= np.floor(exact + 2.0**-16)) and np.all(size >= np.floor(exact - 2.0**-16))
    assert np.all(levels * np.sign(x) >= 0)
    assert (levels[0], levels[1], levels[2]) == (s, -s, 0)


def test_the_largest_entry_never_gets_a_level_more() -> None:
    x = np.full(2**18, 0.3, np.float32)
    for s in (1, 7, 127, 32767):
        for scale in (x[0], np.nextafter(x[0], np.float32(0))):  # at the scale and just beyond it
            assert np.all(kernels.quantise.dither(x, np.array([0, len(x)]), np.array([scale]), s, 5) == s)


def test_dither_is_unbiased_over_seeds() -> None:
    n, s, seeds = 40, 7, 4000
    x = normal(n)
    scales = np.array([np.abs(x).max()])
    drawn = [kernels.quantise.dither(x, np.array([0, n]), scales, s, seed) for seed in range(seeds)]
    error = np.abs(np.mean(drawn, axis=0) - s * x.astype(np.float64) / scales[0])
    assert error.max() <= math.sqrt(math.log(2 * n / 1e-9) / (2 * seeds))  # Hoeffding; a level has a range of 1


@pytest.mark.parametrize("s", [1, 7, 127, 1000])
@pytest.mark.parametrize("wanted", [1 / 256, 0.1, 0.5, 0.77, 1 - 1 / 256])
def test_dither_is_unbiased_over_places(wanted: float, s: int) -> None:
    n = 1 << 20
    levels = kernels.quantise.dither(np.full(n, wanted / s, np.float32), np.array([0, n]), np.ones(1, np.float32), s, 3)
    assert abs(levels.mean() - wanted) <= math.sqrt(math.log(2 / 1e-9) / (2 * n)) + 2.0**-16


def fair_bits(n: int, seed: int) -> np.ndarray:
    """+1 or -1 for each place: which way one half is rounded."""
    half = np.full(n, 0.5, np.float32)
    return kernels.quantise.dither(half, np.array([0, n]), np.ones(1, np.float32), 1, seed) * 2.0 - 1


def test_noise_of_places_and_of_seeds_looks_independent() -> None:
    n = 1 << 14
    seeds = [0, *(1 << b for b in range(64)), 3, 2**64 - 1]
    rows = np.array([fair_bits(n, seed) for seed in seeds])
    between = rows @ rows.T / math.sqrt(n)
    assert np.abs(between[np.triu_indices(len(rows), 1)]).max() < 6  # standard deviations
    assert np.abs(rows.sum(axis=1)).max() / math.sqrt(n) < 6
    for lag in (1, 2, 3, 4, 7, 8, 16, 31, 32, 64, 256, 512, 1024):
        assert np.abs((rows[:, lag:] * rows[:, :-lag]).sum(axis=1)).max() / math.sqrt(n - lag) < 6


def test_noise_depends_on_seed_and_place_only() -> None:
    n, scale = 1000, np.float32(2.5)
    x = normal(n)
    for s in (7, 1000):
        whole = kernels.quantise.dither(x, np.array([0, n]), np.array([scale]), s, 9)
        for offsets in cuts(n):
            scales = np.full(len(offsets) - 1, scale)
            np.testing.assert_array_equal(kernels.quantise.dither(x, offsets, scales, s, 9), whole)
        head = kernels.quantise.dither(x[:77], np.array([0, 77]), np.array([scale]), s, 9)
        np.testing.assert_array_equal(head, whole[:77])


def test_levels_are_the_same_for_ever() -> None:
    x = np.linspace(-1, 1, 16, dtype=np.float32)
    levels = kernels.quantise.dither(x, np.array([0, 16]), np.ones(1, np.float32), 7, 2**63 + 12345)
    assert levels.tolist() == [-7, -6, -5, -4, -3, -2, -1, 0, 0, 2, 3, 3, 4, 5, 6, 7]


def test_a_stretch_without_scale_is_zero_and_bad_values_stay_in_range() -> None:
    x = normal(64)
    for s in (7, 1000):
        for scale in (0.0, -0.0):
            assert not kernels.quantise.dither(x, np.array([0, 64]), np.array([scale], np.float32), s, 1).any()
        for bad in (np.nan, np.inf, -np.inf):
            y = x.copy()
            y[3] = bad
            for scale in (1.0, np.nan, np.inf):
                levels = kernels.quantise.dither(y, np.array([0, 64]), np.array([scale], np.float32), s, 1)
                assert np.abs(levels.astype(int)).max() <= s


@pytest.mark.parametrize(
    ("s", "dtype"), [(1, np.int8), (7, np.int8), (127, np.int8), (2047, np.int16), (32767, np.int16)]
)
def test_undither_is_one_rounded_step_and_one_rounded_product(s: int, dtype: type) -> None:
    n = 1000
    levels = np.random.default_rng(0).integers(-s, s, n, endpoint=True).astype(dtype)
    for offsets in cuts(n):
        scales = np.abs(normal(len(offsets) - 1, 1))
        steps = (scales.astype(np.float64) * 0.37 / s).astype(np.float32)
        expected = levels.astype(np.float32) * np.repeat(steps, np.diff(offsets))
        np.testing.assert_array_equal(kernels.quantise.undither(levels, offsets, scales, s, 0.37), expected)


def test_undither_is_finite_at_the_largest_scale() -> None:
    whole = np.array([0, 2])
    for s in (1, 2, 3, 5, 7, 31, 100, 127, 1000, 32767):
        levels = np.array([s, -s], np.int8 if s <= 127 else np.int16)
        for factor in (1.0, 0.9, 2.0):
            values = kernels.quantise.undither(levels, whole, np.array([LARGEST]), s, factor)
            assert np.isfinite(values).all()
            np.testing.assert_allclose(values[0], min(factor, 1.0) * float(LARGEST), rtol=1e-6)


def test_bfloat16_is_the_next_one_up() -> None:
    every = np.arange(0x7F80, dtype=np.uint16)
    values = kernels.quantise.from_16(every)
    np.testing.assert_array_equal(kernels.quantise.round_up_16(values), every)
    between = np.abs(np.concatenate([normal(1000), [TINIEST, np.float32(0), np.float32(1e-40)]]))
    up = kernels.quantise.round_up_16(between)
    assert np.all(kernels.quantise.from_16(up) >= between)
    some = up > 0
    assert np.all(kernels.quantise.from_16(up[some] - np.uint16(1)) < between[some])
    assert kernels.quantise.round_up_16(np.array([LARGEST]))[0] == 0x7F7F  # saturates: never infinite


def test_quantise_refuses_what_does_not_fit_together() -> None:
    x, one = normal(10), np.ones(1, np.float32)
    for offsets in ([0, 9], [1, 10], [0, 11], [0, 12, 10], []):
        with pytest.raises(LocalError, match="offsets"):
            kernels.quantise.dither(x, np.array(offsets, np.int64), one, 7, 0)
    whole = np.array([0, 10])
    with pytest.raises(LocalError, match="one scale per stretch"):
        kernels.quantise.dither(x, whole, np.ones(2, np.float32), 7, 0)
    for s in (0, 32768):
        with pytest.raises(LocalError, match="32767"):
            kernels.quantise.dither(x, whole, one, s, 0)
    with pytest.raises(LocalError, match="int8 or int16"):
        kernels.quantise.undither(np.zeros(10, np.int32), whole, one, 7, 1.0)


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 1000])
def test_products_are_numpys_inner_products(n):
    draw = np.random.Generator(np.random.Philox(n))
    x, y = draw.standard_normal(n).astype(np.float32), draw.standard_normal(n).astype(np.float32)
    u, v = x.astype(np.float64), y.astype(np.float64)
    np.testing.assert_allclose(kernels.dots.products(x, y), (u @ u, u @ v, v @ v), rtol=1e-12, atol=1e-12)


def test_products_of_the_largest_and_smallest_floats_neither_overflow_nor_vanish():
    huge, tiny = np.full(100, 3e38, np.float32), np.full(100, 1e-44, np.float32)
    xx, xy, yy = kernels.dots.products(huge, tiny)
    assert 8e78 < xx < 1e79 and xy > 0 and yy > 0
