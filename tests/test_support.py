"""Laws of sorted index sets on the wire."""

from __future__ import annotations

import itertools
from math import lgamma, log

import numpy as np
import pytest

from fewbits.coders import read_support, write_support
from fewbits.errors import LocalError, WireError
from fewbits.wire import BitReader, BitWriter


def written(indices: np.ndarray, n: int) -> BitWriter:
    out = BitWriter()
    write_support(np.asarray(indices, np.int64), n, out)
    return out


def read_all(k: int, n: int, data: bytes) -> np.ndarray:
    src = BitReader(data)
    found = read_support(k, n, src)
    src.finish()
    return found


def drawn(k: int, n: int, seed: int = 0) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).choice(n, k, replace=False)).astype(np.int64)


def clustered(k: int, n: int) -> np.ndarray:
    """Bursts, as in the top entries of a real update."""
    generator = np.random.default_rng(1)
    centres = generator.integers(0, n, max(1, k // 50))
    near = generator.choice(centres, 3 * k) + np.rint(generator.laplace(0, 60, 3 * k)).astype(np.int64)
    return np.unique(near[(near >= 0) & (near < n)])[:k]


def log2_choose(n: int, k: int) -> float:
    return (lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)) / log(2)


def test_every_small_support_comes_back() -> None:
    for n in range(7):
        for k in range(n + 1):
            for indices in itertools.combinations(range(n), k):
                out = written(np.array(indices, np.int64), n)
                assert out.bits == 0 or 0 < k < n
                assert read_all(k, n, out.finish()).tolist() == list(indices)


@pytest.mark.parametrize("n", [33, 1000, 30_000, 10**6])
def test_random_and_clustered_supports_come_back(n: int) -> None:
    for share in (0.0001, 0.01, 0.3, 0.5, 0.51, 0.97):
        k = max(1, int(share * n))
        for indices in (drawn(k, n), clustered(k, n), np.arange(k), np.arange(n - k, n), np.arange(0, n, n // k)[:k]):
            indices = np.asarray(indices, np.int64)
            assert np.array_equal(read_all(len(indices), n, written(indices, n).finish()), indices)


def test_supports_of_huge_vectors_come_back() -> None:
    indices = np.unique(np.random.default_rng(2).integers(0, 2**40, 5000))
    indices[-1] = 2**40 - 1
    assert np.array_equal(read_all(len(indices), 2**40, written(indices, 2**40).finish()), indices)


@pytest.mark.parametrize(
    ("k", "n", "slack"),
    [
        (100_000, 10**7, 0.004),
        (100_000, 10**6, 0.004),
        (100_000, 250_000, 0.004),
        (700_000, 10**6, 0.004),
        (10_000, 10**6, 0.006),
        (10_000, 10**5, 0.006),
        (10_000, 30_000, 0.006),
        (1000, 10**5, 0.01),
        (1000, 10**4, 0.015),
    ],
)
def test_random_supports_come_near_the_count_of_subsets(k: int, n: int, slack: float) -> None:
    assert written(drawn(k, n), n).bits <= (1 + slack) * log2_choose(n, k)


def test_clustered_supports_come_far_below_it() -> None:
    indices = clustered(10_000, 10**6)
    assert written(indices, 10**6).bits < 0.8 * log2_choose(10**6, len(indices))


def check_harmless(k: int, n: int, data: bytes) -> None:
    try:
        found = read_all(k, n, data)
    except WireError:
        return
    assert found.shape == (k,) and found.dtype == np.int64
    assert found[0] >= 0 and found[-1] < n and bool(np.all(np.diff(found) > 0))


@pytest.mark.parametrize("n", [40, 2000])
def test_damaged_bytes_give_ascending_indices_or_an_error(n: int) -> None:
    for indices in (drawn(n // 10, n), clustered(n // 4, n), drawn(n - 9, n)):
        k = len(indices)
        data = written(indices, n).finish()
        for cut in range(len(data)):
            with pytest.raises(WireError):
                read_all(k, n, data[:cut])
        with pytest.raises(WireError):
            read_all(k, n, data + b"\0")
        for bit in range(8 * len(data)):
            damaged = bytearray(data)
            damaged[bit // 8] ^= 128 >> bit % 8
            check_harmless(k, n, bytes(damaged))


def test_random_bytes_give_ascending_indices_or_an_error() -> None:
    generator = np.random.default_rng(3)
    for form in range(8):
        for k, n in ((1, 2), (5, 100), (100, 2**33), (300, 700), (5000, 20_000)):
            for size in (1, 9, 100, 5000):
                data = generator.integers(0, 256, size, np.uint8) >> generator.integers(0, 8)
                check_harmless(k, n, bytes([form << 5 | int(data[0]) & 31]) + data.tobytes()[1:])


def test_bad_indices_are_the_callers_mistake() -> None:
    for indices, n in (([1, 1], 5), ([2, 1], 5), ([-1, 2], 5), ([0, 5], 5)):
        with pytest.raises(LocalError):
            written(np.array(indices), n)
    with pytest.raises(LocalError):
        write_support(np.zeros(1, np.int32), 5, BitWriter())
    with pytest.raises(LocalError):
        read_support(6, 5, BitReader(b""))
