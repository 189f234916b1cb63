"""Chunked top-k, signs with a few sizes, and error feedback that forgets: SparseLoCo's parts, against plain NumPy."""

import itertools

import numpy as np
import pytest
import torch

import fewbits as fb
from fewbits import kernels
from fewbits.codecs import ErrorFeedback, Keys, Sign, TopK, chain
from fewbits.coders import Rans
from fewbits.errors import LocalError
from fewbits.rng import Key
from fewbits.spec import Spec

SIZES = [(20_000, 4096, 64, 57), (333, 8, 3, 2), (5, 8, 2, 1), (9, 1, 1, 0)]
KEYS = Keys(Key(1), Key(2))
CHUNKS = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "zeros": lambda rng, n: np.zeros(n),
    "two sizes": lambda rng, n: np.sign(rng.standard_normal(n)),
    "few sizes": lambda rng, n: rng.integers(-2, 3, n),
    "mostly zero": lambda rng, n: np.where(rng.random(n) < 0.01, 1.0, -0.0),
    "denormal": lambda rng, n: np.arange(n) * 1e-45,
    "all exponents": lambda rng, n: rng.standard_normal(n) * 10.0 ** rng.integers(-30, 30, n),
    "falling": lambda rng, n: np.cumprod(np.full(n, 0.99)),  # the threshold before is always too high
    "scales by layer": lambda rng, n: rng.standard_normal(n) * np.where(np.arange(n) // 5000 % 2, 1e-6, 1),
}


def of_each_chunk(x, chunk, k, last):
    """The statement in the head of the kernel, with a full stable sort in place of `select`."""
    found = []
    for start in range(0, len(x), chunk):
        size = np.abs(x[start : start + chunk])
        order = np.lexsort((np.arange(len(size)), -size))[: k if len(size) == chunk else last]
        found.append(start + np.sort(order[size[order] > 0]))
    return np.concatenate([np.zeros(0, np.int64), *found])


@pytest.mark.parametrize("name", CHUNKS)
@pytest.mark.parametrize(
    ("n", "chunk", "k", "last"), [(20_000, 4096, 64, 57), (333, 8, 3, 2), (5, 8, 2, 1), (9, 1, 1, 0)]
)
def test_the_largest_of_each_chunk_are_the_heads_of_full_sorts(name, n, chunk, k, last):
    x = CHUNKS[name](np.random.default_rng(n), n).astype(np.float32)
    found = kernels.chunks.largest(x, chunk, k, last)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, of_each_chunk(x, chunk, k, last))


def test_chunks_of_no_size_and_more_than_there_is_are_refused():
    for chunk, k, last in ((0, 0, 0), (4, 5, 1), (4, -1, 1), (4, 1, 5)):
        with pytest.raises(LocalError, match="chunk"):
            kernels.chunks.largest(np.ones(8, np.float32), chunk, k, last)
    for chunk in (0, 2.5):
        with pytest.raises(LocalError, match="TopK: chunk must be a whole number, 1 or more"):
            TopK(0.1, chunk=chunk)  # pyright: ignore


def test_every_chunk_is_heard_however_small_its_entries():
    x = torch.ones(8192)
    x[4096:] *= 1e-6
    whole, chunked = (TopK(1 / 64, chunk=c).split(x, Spec((8192,)), KEYS)[0] for c in (None, 4096))
    assert int((whole >= 4096).sum()) == 0 and int((chunked >= 4096).sum()) == 64


@pytest.mark.parametrize("classes", [1, 2, 3, 8])
def test_classes_sums_and_sizes_are_what_numpy_makes_of_the_borders(classes):
    x = np.random.default_rng(classes).standard_normal(3000).astype(np.float32)
    x[:2] = 0.0, -0.0
    offsets = np.array([0, 1000, 1000, 3000])
    borders = kernels.sizes.borders(x, offsets, classes)
    codes = kernels.sizes.classify(x, offsets, borders)
    totals, counts = kernels.sizes.sums(x, codes, offsets, classes)
    means = (totals / np.maximum(counts, 1)).astype(np.float32)
    values = kernels.sizes.expand(codes, offsets, means)
    for j, (start, end) in enumerate(itertools.pairwise(offsets)):
        part, code = x[start:end], codes[start:end]
        np.testing.assert_array_equal(code, 2 * np.searchsorted(borders[j], np.abs(part), side="right") + (part < 0))
        for c in range(classes):
            here = code >> 1 == c
            assert counts[j, c] == here.sum()
            assert totals[j, c] == pytest.approx(np.abs(part[here].astype(np.float64)).sum(), rel=1e-12)
        np.testing.assert_array_equal(values[start:end], np.where(code & 1, -1, 1) * means[j][code >> 1])


def test_borders_are_nearly_the_best_for_a_bell():
    """Squared errors of the best quantisers of a normal variable: Max 1960, table 1."""
    x = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    offsets = np.array([0, len(x)])
    for classes, best in ((1, 0.3634), (2, 0.1175), (4, 0.03454), (8, 0.009497)):
        codes = kernels.sizes.classify(x, offsets, kernels.sizes.borders(x, offsets, classes))
        totals, counts = kernels.sizes.sums(x, codes, offsets, classes)
        values = kernels.sizes.expand(codes, offsets, (totals / counts).astype(np.float32))
        assert np.mean((values - x) ** 2) < 1.01 * best


@pytest.mark.parametrize("x", [[4, 8, 9], [10] * 99 + [0], [1] * 5 + [2] * 5, [3, 3, 3, 1e30], [1e-40, 5e-40]])
def test_two_groups_of_magnitudes_are_told_apart_however_they_lie(x):
    values, offsets = np.array(x, np.float32), np.array([0, len(x)])
    codes = kernels.sizes.classify(values, offsets, kernels.sizes.borders(values, offsets, 2))
    np.testing.assert_array_equal(codes, np.where(values > (min(x) + max(x)) / 2, 2, 0))


def test_codes_beyond_the_classes_are_refused():
    with pytest.raises(LocalError, match="codes below 4"):
        kernels.sizes.expand(np.array([4], np.uint8), np.array([0, 1]), np.ones((1, 2), np.float32))
    with pytest.raises(LocalError, match=r"classes must be in 1\.\.64"):
        kernels.sizes.borders(np.ones(1, np.float32), np.array([0, 1]), 65)
    with pytest.raises(LocalError, match="Sign: sizes"):
        Sign(sizes=17)


def test_more_sizes_lose_less_and_one_is_the_mean():
    x, spec = torch.randn(5000, generator=Key(5).generator()), Spec((5000,))
    losses = []
    for sizes in (1, 2, 4, 16):
        side, codes = Sign(sizes=sizes).split(x, spec, KEYS)
        losses.append(float((Sign(sizes=sizes).join(side, codes, spec) - x).square().sum()))
    assert losses == sorted(losses, reverse=True) and losses[1] < losses[0] / 2


def test_an_unbiased_sign_is_as_long_along_its_vector_as_the_vector():
    x, spec = torch.randn(5000, generator=Key(6).generator()), Spec((5000,))
    for sizes in (1, 2, 4):
        rule = Sign(sizes=sizes, mode="unbiased")
        along = float(rule.join(*rule.split(x, spec, KEYS), spec).double() @ x.double())
        assert along == pytest.approx(float(x.double() @ x.double()), rel=1e-6)
    with pytest.raises(LocalError, match="feedback of its error diverges"):
        ErrorFeedback(chain(Sign(mode="unbiased")))


def test_feedback_with_decay_is_a_momentum_that_sending_empties():
    codec, n, decay = ErrorFeedback(chain(TopK(0.1)), decay=0.95), 200, 0.95
    sender = fb.Sender(codec, Spec((n,)), Key(0))
    receiver, m = fb.Receiver(codec, Spec((n,))), np.zeros(n, np.float32)
    for t in range(6):
        x = torch.randn(n, generator=Key(t).generator())
        m = m * np.float32(decay) + x.numpy()  # m := decay m + x, each operation rounded once
        largest = np.sort(np.argsort(-np.abs(m), kind="stable")[:20])
        sent = receiver.receive(sender.send(x)).numpy()
        sender.commit()
        np.testing.assert_array_equal(np.flatnonzero(sent), largest)
        np.testing.assert_array_equal(sent[largest], m[largest])
        m[largest] = 0  # m := m - C(m)
    for decay in (0, 1.5, float("nan")):
        with pytest.raises(LocalError, match="ErrorFeedback: decay"):
            ErrorFeedback(chain(TopK(0.1)), decay=decay)


def test_a_random_sparse_update_costs_at_most_9_4_bits_an_entry_with_its_header():
    x = torch.randn(1_000_000, generator=Key(3).generator())
    codec = chain(TopK(1 / 64, chunk=4096), Sign(sizes=2), Rans())
    frame = fb.Sender(ErrorFeedback(codec, decay=0.95), Spec.of(x), Key(0)).send(x)
    entries = 244 * 64 + 9  # whole chunks, and the rest of 576 entries
    assert 8 * len(frame) <= 9.4 * entries


def test_a_support_that_clusters_costs_less():
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.random(1000) < 0.1, 1000)  # one row in ten has moved, as an embedding's rows do
    x = torch.from_numpy(np.where(rows, rng.standard_normal(1_000_000), 1e-3).astype(np.float32))
    codec = chain(TopK(1 / 64, chunk=4096), Sign(sizes=2), Rans())
    message, _ = codec.encode(x, Spec((1_000_000,)), (), (), KEYS)
    frame = fb.Sender(codec, Spec.of(x), Key(0)).send(x)
    assert 8 * len(frame) < 8.2 * len(message.sides[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_feedback_sends_is_rounded_as_numpy_rounds_it(dtype):
    rng, largest = np.random.default_rng(0), np.finfo(dtype).max
    for n in (0, 1, 5000):
        x, e, out = (rng.standard_normal(n).astype(dtype) for _ in range(3))
        assert kernels.feedback.add_decayed(x, e, 0.95, out) == 0
        np.testing.assert_array_equal(out, x + dtype(0.95) * e)
    x[[3, 4999]], e[[3, 17]] = largest, (largest, np.nan)
    assert kernels.feedback.add_decayed(x, e, 1.0, out) == 2  # 3 overflows and 17 is NaN; 4999 is just finite
    for bad in (x[:4], np.zeros(5000, np.float16), np.frombuffer(x.tobytes(), dtype)):
        with pytest.raises(LocalError, match="add_decayed"):
            kernels.feedback.add_decayed(x, e, 1.0, bad)
