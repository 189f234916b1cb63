"""Compiled models of bytes and forms of supports do what their NumPy statement says."""

from __future__ import annotations

import numpy as np
import pytest

from fewbits import kernels
from fewbits.coders.joined import digit_table, digits

RNG = np.random.default_rng(21)


def plain_length(counts: np.ndarray, frequency: np.ndarray) -> float:
    some = counts > 0
    return float(counts[some] @ np.log2(frequency.sum() / frequency[some]))


def plain_model(counts: np.ndarray, shares_of, mantissa: int, precision: int) -> tuple[np.ndarray, np.ndarray, int]:
    weights = kernels.rans.round_weights(counts, mantissa)
    words = np.zeros(len(counts) // 2 + 2, np.uint64)
    size = kernels.rans.write_weights(weights, mantissa, words)
    return words, kernels.rans.normalise(shares_of(weights.astype(np.float64)), precision), size


@pytest.mark.parametrize("levels", [2, 3, 7, 15, 16, 31, 256])
def test_the_cheaper_of_two_models_is_taken_and_its_table_comes_back(levels):
    table, size = digit_table(levels), levels ** digits(levels)
    for n in (3, 100, 5000):
        data = np.minimum(RNG.geometric(0.2, n) - 1, size - 1).astype(np.uint8)
        counts = np.bincount(data, minlength=size)
        columns = table[:size].T
        of_digits = sum(np.bincount(column, counts, levels) for column in columns).astype(np.int64)
        plain = [
            plain_model(counts, lambda w: w, 3, 12),
            plain_model(of_digits, lambda w, c=columns: np.multiply.reduce([w[x] for x in c]), 7, 12),
        ][: 1 + (digits(levels) > 1)]
        costs = [plain_length(counts, f) + 8 * -(-used // 8) for _, f, used in plain]
        words, frequency = np.zeros((2, size // 2 + 2), np.uint64), np.empty((2, size), np.int64)
        which, used, bits = kernels.models.cheapest(counts, table, levels, (3, 7), 12, words, frequency)
        assert which == int(np.argmin(costs)) and used == plain[which][2]
        assert bits == pytest.approx(costs[which])
        for row, (expected, found, _) in enumerate(plain):
            assert np.array_equal(words[row][: len(expected)], expected)
            assert np.array_equal(frequency[row], found)
        stored, again = np.append(words[which], np.zeros(2, np.uint64)), np.empty(size, np.int64)
        count, mantissa = (size, 3) if which == 0 else (levels, 7)
        assert kernels.models.read(stored, used, count, table, which == 1, mantissa, 12, again) == used
        assert np.array_equal(again, frequency[which])


def test_a_table_that_no_encoder_writes_is_said():
    frequency = np.empty(15, np.int64)
    assert kernels.models.read(np.zeros(4, np.uint64), 64, 15, digit_table(15), False, 3, 12, frequency) == -1


@pytest.mark.parametrize("fine", [0, 1, 2])
def test_forms_are_estimated_by_the_buckets_that_they_write(fine):
    n, positions = 30_000, np.sort(RNG.choice(30_000, 900, replace=False)).astype(np.int64)
    symbols, words = np.empty(900, np.uint8), np.zeros(1000, np.uint64)
    raw = kernels.golomb.bucket_encode(positions, fine, symbols, words)
    size = max(17, int(_bucket(np.array([n - 1]), fine)[0]) + 1)
    counts = np.bincount(symbols, minlength=size)
    _, frequency, used = plain_model(counts, lambda w: w, 3, 12)
    geometric = np.full(int(_bucket(np.array([n - 1]), 2)[0]) + 1, 64, np.int64)
    costs = np.empty(5, np.float64)
    kernels.golomb.form_bits(positions, 23, 2, geometric, (3, 12, 16), 8, costs)
    assert costs[0] == kernels.golomb.golomb_bits(positions, 23)
    table = 8 * -(-used // 8)
    assert costs[2 + fine] == pytest.approx(raw + plain_length(counts, frequency) + 16 + table + 8)


def _bucket(runs: np.ndarray, fine: int) -> np.ndarray:
    spare = np.maximum(0, np.frexp(np.maximum(runs, 1).astype(np.float64))[1] - 1 - fine)
    return (spare << fine) + (runs >> spare)
