"""Whether all numbers are finite: by one product, and never another answer than `isfinite` gives."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from fewbits.codecs import Partial
from fewbits.codecs.finiteness import all_finite
from fewbits.links.finite import reach
from fewbits.rng import Key

MOST = torch.finfo(torch.float32).max
ODD = [MOST, -MOST, 2.0**64, 1.9e19, 1e-45, -1e-45, 1.1e-38, -0.0, 0.0, 1.0]
BAD = [math.nan, -math.nan, math.inf, -math.inf]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def isfinite(x):
    return bool(torch.isfinite(x).all())


@pytest.mark.parametrize("numel", [0, 1, 2, 7, 16, 33, 1000, 70_000])
@pytest.mark.parametrize("odd", ODD)
def test_odd_values_are_finite(numel, odd):
    x = torch.full((numel,), odd)
    assert all_finite(x) and isfinite(x)
    x = torch.from_numpy(Key(numel).normal(numel)) * (MOST / 10)
    assert all_finite(x) is isfinite(x) is True


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("rest", [0.0, MOST, -MOST, 1e-45])
def test_a_bad_value_is_seen_at_every_place(bad, rest):
    for numel in (1, 3, 16, 67):
        x = torch.full((numel,), rest)
        for at in range(numel):
            x[at] = bad
            assert not all_finite(x)
            x[at] = rest
        assert all_finite(x)
    x = torch.full((200_000,), rest)  # long enough for threads
    for at in (0, 1, 99_999, 131_072, 199_999):
        x[at] = bad
        assert not all_finite(x)
        x[at] = rest


@pytest.mark.parametrize("words", [0x7F800001, 0x7FBFFFFF, 0x7FC00000, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF])
def test_every_kind_of_nan_is_seen(words):
    x = np.zeros(50, np.uint32)
    x[31] = words
    assert not all_finite(torch.from_numpy(x.view(np.float32)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_and_shape_is_answered(dtype):
    for x in (torch.ones(6, 4), torch.ones(6, 4).t(), torch.ones(6, 4)[::2, 1], torch.ones(()), torch.ones(0, 3)):
        x = x.to(dtype)
        assert all_finite(x)
        if x.numel():
            for bad in BAD:
                y = x.clone(memory_format=torch.preserve_format)
                y.view_as(x)[(0,) * x.dim()] = bad
                assert not all_finite(y)
    assert all_finite(torch.full((9,), torch.finfo(dtype).max, dtype=dtype))
    assert all_finite(torch.nn.Parameter(torch.ones(3, dtype=dtype)))


def test_random_words_are_answered_in_many_threads():
    drawn = np.random.default_rng(0)
    words = [drawn.integers(0, 2**32, size, dtype=np.uint32).view(np.float32) for size in [3, 40, 200] * 60]
    values = [torch.from_numpy(x) for x in words]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(all_finite, values))
    assert found == [isfinite(x) for x in values]
    assert len(set(found)) == 2


@pytest.mark.parametrize("numel", [1, 2, 7, 33, 1000, 70_000])
@pytest.mark.parametrize("scale", [1.0, -0.7, 1e30])
def test_no_entry_of_a_message_is_larger_than_its_reach(numel, scale):
    for power in (-44, -30, -10, 0, 3, 7, 30, 38):
        x = torch.from_numpy(Key(numel).normal(numel)) * 10.0**power
        largest = abs(scale) * float(x.double().abs().max())
        found = reach(Partial(x, scale=scale))
        assert found >= largest * (1 - 1e-15) and (found < math.inf or largest > MOST)
        assert found <= largest * 1.000001 * numel**0.5 or found == math.inf


@pytest.mark.parametrize("bad", BAD)
def test_the_reach_of_a_bad_value_is_not_finite(bad):
    for rest in (0.0, 1.0, MOST):
        assert not math.isfinite(reach(Partial(torch.tensor([rest] * 40 + [bad] + [rest] * 40))))
    assert reach(Partial(torch.tensor([2e38, 1.0]), scale=2.0)) == math.inf
