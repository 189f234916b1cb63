"""The Walsh-Hadamard transform and the sketch loops against their NumPy meaning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

from fewbits import kernels
from fewbits.codecs.transforms.bases.arithmetic import butterflies_
from fewbits.errors import LocalError
from fewbits.rng import Key


def normal(n: int, dtype: type = np.float32) -> np.ndarray:
    return Key(n).normal(n).astype(dtype)


def transformed(x: np.ndarray) -> np.ndarray:
    y = x.copy()
    kernels.hadamard.transform(y)
    return y


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_is_the_product_with_the_dense_matrix(dtype):
    for log in range(12):
        x = normal(2**log, dtype)
        expected = hadamard(2**log, dtype=np.float64) @ x
        assert np.abs(transformed(x) - expected).max() <= 1e-5 * np.sqrt(2**log) * max(np.abs(x).max(), 1)


@pytest.mark.parametrize("log", [*range(18), 19, 20, 21, 22])
def test_its_bits_are_those_of_one_stage_after_the_other(log):
    x = normal(2**log)
    expected = torch.from_numpy(x.copy())
    butterflies_(expected)
    assert np.array_equal(transformed(x).view(np.int32), expected.numpy().view(np.int32))


@pytest.mark.parametrize("log", [23, 24])
def test_columns_of_long_transforms_are_right(log):
    n, (a, b) = 2**log, (2**log // 3, 2**log - 5)
    x, i = np.zeros(n, np.float32), np.arange(n)
    x[a], x[b] = 3, 5
    expected = sum(w * (1.0 - 2.0 * (np.bitwise_count(i & j) & 1)) for w, j in ((3, a), (5, b)))
    assert np.array_equal(transformed(x), expected)


def test_twice_is_n_times_the_vector():
    for log in range(17):
        x = np.round(normal(2**log))
        assert np.array_equal(transformed(transformed(x)), 2**log * x)


@pytest.mark.parametrize(
    "x",
    [
        np.zeros(0, np.float32),
        np.zeros(3, np.float32),
        np.zeros((2, 2), np.float32),
        np.zeros(4, np.int32),
        np.zeros(4, np.float16),
        np.zeros(8, np.float32)[::2],
    ],
    ids=["empty", "three", "matrix", "integers", "half", "strided"],
)
def test_what_cannot_be_transformed_in_place_is_refused(x):
    with pytest.raises(LocalError, match="hadamard: expected"):
        kernels.hadamard.transform(x)


def test_a_read_only_array_is_refused():
    x = np.zeros(4, np.float32)
    x.flags.writeable = False
    with pytest.raises(LocalError, match="writable"):
        kernels.hadamard.transform(x)


@pytest.mark.parametrize("kind", [np.float32, np.int8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pick_and_collect_are_their_numpy_meaning(dtype, kind):
    n, m = 3000, 17
    x, v = normal(n, dtype), normal(m, dtype)
    places = Key(1).below(m, n).astype(np.int32)
    gains = Key(2).normal(n) if kind is np.float32 else Key(2).signs(n)
    picked = kernels.sketch.pick(v, places, gains)
    assert picked.dtype == dtype and np.array_equal(picked, gains.astype(dtype) * v[places])
    expected = np.zeros(m, dtype)
    np.add.at(expected, places, gains.astype(dtype) * (x * dtype(0.3)))
    assert np.array_equal(kernels.sketch.collect(x, places, gains, 0.3, m), expected)


def test_products_with_rows_are_matrix_products():
    a, s, x = normal(60).reshape(12, 5), normal(5), normal(12)
    out = np.ones(5, np.float32)
    kernels.sketch.times_rows(x, a, out)
    assert np.allclose(kernels.sketch.rows_times(a, s), a @ s, atol=1e-5)
    assert np.allclose(out, 1 + a.T @ x, atol=1e-5)


def test_places_and_shapes_that_do_not_fit_are_refused():
    x, gains = normal(3), np.ones(3, np.float32)
    for places in ([0, 1, 3], [0, -1, 0], [0, 1]):
        wrong = np.array(places, np.int32)
        with pytest.raises(LocalError, match="places"):
            kernels.sketch.collect(x, wrong, gains, 1.0, 3)
        with pytest.raises(LocalError, match="places"):
            kernels.sketch.pick(x, wrong, gains)
    with pytest.raises(LocalError, match="matrix of 2 by 3"):
        kernels.sketch.rows_times(np.zeros((2, 2), np.float32), x)
    with pytest.raises(LocalError, match="matrix of 3 by 3"):
        kernels.sketch.times_rows(x, np.zeros((3, 2), np.float32), x)
