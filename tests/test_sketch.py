"""Count sketches against dense matrices and NumPy's median; FetchSGD against thirty lines of NumPy."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch

from every_codec import payload_of, restamp
from fewbits import kernels
from fewbits.codecs import CountSketch, ErrorFeedback, FetchSGD, Keys, MeanSketch, Sketch, TopK, Total, chain
from fewbits.errors import LocalError, WireError
from fewbits.links import Receiver, Sender
from fewbits.rng import Key
from fewbits.spec import Spec

MASK = 2**64 - 1
SIZES = [(41, 3, 8), (100, 1, 7), (300, 4, 10), (1000, 5, 40), (2000, 64, 3)]


def normal(n: int, *labels: int | str) -> torch.Tensor:
    return torch.from_numpy(Key(n).fold("sketch", *labels).normal(n))


def sketch_of(n: int, rows: int, columns: int) -> Sketch:
    return Sketch(n, rows, columns, Key(7))


def place(sketch: Sketch, row: int, i: int) -> tuple[int, int]:
    """(column, sign) of one entry in one row, in Python's integers."""
    z = sketch.key.fold("row", row).word() + (i + 1) * 0x9E3779B97F4A7C15 & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    z ^= z >> 31
    return (z >> 32) * sketch.columns >> 32, 1 - 2 * (z & 1)


def dense(sketch: Sketch) -> np.ndarray:
    """S without its factor.  # (rows, columns, numel)"""
    found = np.zeros((sketch.rows, sketch.columns, sketch.numel))
    for row in range(sketch.rows):
        for i in range(sketch.numel):
            column, sign = place(sketch, row, i)
            found[row, column, i] = sign
    return found


def estimates(sketch: Sketch, table: np.ndarray) -> np.ndarray:
    """Each row's estimate of each entry.  # (rows, numel)"""
    s = dense(sketch)
    return np.einsum("rci,rc->ri", s, table.reshape(sketch.rows, sketch.columns)) / sketch.factor


@pytest.mark.parametrize(("n", "rows", "columns"), SIZES)
def test_a_table_is_the_product_with_a_matrix_of_signs_and_estimates_are_medians_and_means(n, rows, columns):
    sketch, x = sketch_of(n, rows, columns), normal(n)
    if sketch.whole:
        assert torch.equal(sketch.of(x), x) and torch.equal(sketch.median(x), x) and torch.equal(sketch.mean(x), x)
        return
    table = sketch.of(x).numpy()
    expected = (dense(sketch) @ x.numpy().astype(float)).reshape(-1) * sketch.factor
    assert np.array_equal(table, expected.astype(np.float32)) or np.abs(table - expected).max() < 1e-6
    found = estimates(sketch, table)
    np.testing.assert_allclose(sketch.median(sketch.of(x)), np.median(found, axis=0), rtol=1e-6)
    np.testing.assert_allclose(sketch.mean(sketch.of(x)), found.mean(0), rtol=1e-5, atol=1e-6)


def test_the_kernels_agree_across_blocks_and_types():
    n, words = 1001, np.array([1, 2**64 - 1, 2**63], np.uint64)
    for dtype in (np.float32, np.float64):
        x = Key(1).normal(n).astype(dtype)
        table = kernels.count_sketch.sketch(x, words, 100)
        every = np.arange(n)
        assert np.array_equal(table, kernels.count_sketch.sketch_sparse(every, x, words, 100))
        small = kernels.count_sketch.sketch_sparse(every[[3, 700]], x[[3, 700]], words, 100)
        assert np.array_equal(small, kernels.count_sketch.sketch(np.where(np.isin(every, [3, 700]), x, 0), words, 100))
        one = kernels.count_sketch.median(table[:1].astype(dtype), words[:1], n)
        assert np.array_equal(one, kernels.count_sketch.mean(table[:1].astype(dtype), words[:1], n))
        assert one.dtype == dtype


@pytest.mark.parametrize(
    "wrong",
    [
        lambda k, w: k.sketch(np.zeros(3, np.float32), w, 0),
        lambda k, w: k.sketch(np.zeros(3, np.float32), w[:0], 4),
        lambda k, w: k.sketch(np.zeros((3, 1), np.float32), w, 4),
        lambda k, w: k.sketch_sparse(np.arange(2), np.zeros(3, np.float32), w, 4),
        lambda k, w: k.median(np.zeros((3, 4), np.float32), w, 5),
        lambda k, w: k.mean(np.zeros(8, np.float32), w, 5),
    ],
)
def test_the_kernels_refuse_what_does_not_fit(wrong):
    with pytest.raises(LocalError):
        wrong(kernels.count_sketch, np.zeros(2, np.uint64))


def test_columns_and_signs_are_spread_evenly_and_rows_are_independent():
    n, columns = 60_000, 16
    words = np.array([Key(5).fold("row", r).word() for r in range(2)], np.uint64)
    eye = np.eye(columns)
    counts = kernels.count_sketch.sketch(np.ones(n, np.float32), words, 1)
    assert np.abs(counts).max() < 5 * math.sqrt(n)  # signs
    table = np.stack([np.arange(columns, dtype=np.float64), np.arange(columns, dtype=np.float64)])
    found = [np.abs(kernels.count_sketch.median(table[r : r + 1], words[r : r + 1], n)).astype(int) for r in range(2)]
    joint = np.einsum("ni,nj->ij", eye[found[0]], eye[found[1]])
    expected = n / columns**2
    assert ((joint - expected) ** 2 / expected).sum() < 255 + 5 * math.sqrt(2 * 255)


# These may never change, or tables of old rounds cannot be read again.
GOLDEN = {"table": "e1c41a4808dc1810", "median": "0227bddbb7762b0d"}


def test_tables_and_medians_are_the_same_on_every_machine():
    sketch, x = Sketch(5000, 5, 60, Key(7)), torch.arange(5000.0) % 97 - 40
    table = sketch.of(x)
    found = {"table": table, "median": sketch.median(table)}
    assert {k: hashlib.blake2b(v.numpy().tobytes(), digest_size=8).hexdigest() for k, v in found.items()} == GOLDEN


@pytest.mark.parametrize(("n", "rows", "columns"), SIZES)
def test_a_sketch_is_linear_and_the_mean_its_adjoint(n, rows, columns):
    sketch, x, y = sketch_of(n, rows, columns), normal(n), normal(n, 1)
    torch.testing.assert_close(sketch.of(x + 3 * y), sketch.of(x) + 3 * sketch.of(y), rtol=1e-5, atol=1e-5)
    t = normal(sketch.numbers, 2).double()
    left, right = torch.dot(sketch.of(x.double()), t), torch.dot(x.double(), sketch.mean(t))
    scale = 1.0 if sketch.whole else sketch.rows * sketch.factor**2
    torch.testing.assert_close(left, right * scale)


@pytest.mark.parametrize(("n", "rows", "columns"), SIZES)
def test_a_sparse_vector_has_the_table_of_the_dense_one(n, rows, columns):
    sketch = sketch_of(n, rows, columns)
    support, values = torch.tensor([0, 5, n - 1]), torch.tensor([1.5, -2.0, 7.0])
    full = torch.zeros(n).index_copy_(0, support, values)
    assert torch.equal(sketch.of_sparse(support, values), sketch.of(full))
    for wrong in (torch.tensor([0, 1, n]), torch.tensor([-1, 0, 1]), torch.tensor([1, 2])):
        with pytest.raises(LocalError):
            sketch.of_sparse(wrong, values)


def test_a_few_large_entries_are_found_among_small_ones():
    x = 0.01 * normal(10_000)
    support = torch.tensor([17, 500, 501, 9_999])
    x[support] = torch.tensor([3.0, -2.0, 2.5, -4.0])
    codec = CountSketch(columns=1000, fraction=4 / 10_000)
    key, table = codec.split(x, Spec((10_000,)), Keys(Key(1), Key(2)))
    found = codec.join(key, table, Spec((10_000,)))
    assert torch.equal(found.nonzero()[:, 0], support)
    assert bool(((found - x)[support].abs() < 0.3).all())
    assert torch.equal(table, codec.sketch(Spec((10_000,))).of(x))


def test_an_estimate_errs_by_what_the_table_says_it_should():
    n, columns, x = 400, 20, normal(400)
    found = torch.stack([Sketch(n, 5, columns, Key(k)).mean(Sketch(n, 5, columns, Key(k)).of(x)) for k in range(200)])
    omega = float((found - x).square().sum(1).mean() / x.square().sum())
    assert abs(omega / ((n - 1) / (5 * columns)) - 1) < 0.1
    assert float((found.mean(0) - x).square().sum() / x.square().sum()) < 2 * omega / 200


def test_messages_of_mean_sketches_add_to_the_table_of_the_sum():
    codec, spec = chain(MeanSketch(20, rows=3)), Spec((500,))
    xs = [normal(500, i) for i in range(4)]
    total = Total(codec, spec)
    messages = [codec.encode(x, spec, (), (), Keys(Key(i), Key(99)))[0] for i, x in enumerate(xs)]
    for message in messages:
        total.add(codec.partial(message, spec, ())[0], 0.25)
    sketch = MeanSketch(20, rows=3).sketch(spec)
    table = sum(message.carrier for message in messages) / 4
    torch.testing.assert_close(table, sketch.of(sum(xs) / 4), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(total.value(), sketch.mean(sketch.of(sum(xs) / 4)), rtol=1e-5, atol=1e-5)


def test_a_fixed_seed_gives_one_sketch_and_none_another_in_each_frame():
    spec = Spec((500,))
    a, b = Keys(Key(1), Key(2)), Keys(Key(1), Key(3))
    x = normal(500)
    assert torch.equal(CountSketch(20).split(x, spec, a)[1], CountSketch(20).split(x, spec, b)[1])
    fresh = CountSketch(20, seed=None)
    assert not torch.equal(fresh.split(x, spec, a)[1], fresh.split(x, spec, b)[1])


def test_a_table_that_is_not_finite_is_refused_even_where_a_median_would_hide_it():
    x = normal(500)
    sender = Sender(chain(CountSketch(20)), Spec.of(x), Key(1), Key(2))
    frame = sender.send(x)
    payload = bytearray(frame[16:])
    payload[:4] = np.array([np.inf], "<f4").tobytes()
    for read in ("receive", "receive_partial"):
        with pytest.raises(WireError, match="finite"):
            getattr(Receiver(chain(CountSketch(20)), Spec.of(x), Key(2)), read)(restamp(frame, bytes(payload)))


def test_what_cannot_be_is_refused_in_a_sentence():
    for wrong in (
        lambda: CountSketch(0),
        lambda: CountSketch(8, rows=65),
        lambda: CountSketch(8, rows=True),
        lambda: MeanSketch(2**31),
        lambda: MeanSketch(8, seed="x"),
        lambda: MeanSketch(8, mode="median"),
        lambda: CountSketch(8, fraction=0),
        lambda: CountSketch(8, fraction=0.1, mode="contractive"),
        lambda: Sketch(-1, 3, 8, Key(0)),
        lambda: Sketch(100, 3, 8, Key(0)).of(torch.zeros(99)),
        lambda: Sketch(100, 3, 8, Key(0)).median(torch.zeros(23)),
        lambda: ErrorFeedback(chain(CountSketch(8))),
        lambda: ErrorFeedback(chain(CountSketch(8, fraction=0.1))),
        lambda: ErrorFeedback(chain(MeanSketch(8))),
        lambda: FetchSGD(0),
        lambda: FetchSGD(5, momentum=1.0),
        lambda: FetchSGD(5, lr=0),
        lambda: FetchSGD(5, feedback="both"),
        lambda: FetchSGD(5).step(Sketch(100, 3, 8, Key(0)), torch.zeros(24), torch.zeros(24), torch.zeros(23)),
    ):
        with pytest.raises(LocalError):
            wrong()
    ErrorFeedback(chain(MeanSketch(8, mode="contractive")))


def fetch_sgd(s: np.ndarray, factor: float, gradients: np.ndarray, k: int, rho: float, eta: float, zero: bool):
    """FetchSGD with S as a dense matrix; the model after each round.  # (rounds, numel)"""
    rows, columns, n = s.shape

    def sketch(x):
        return (s @ x * factor).astype(np.float32)

    def unsketch(table):
        return np.median(np.einsum("rci,rc->ri", s, table) / factor, axis=0)

    w, u, e = np.zeros(n), np.zeros((rows, columns), np.float32), np.zeros((rows, columns), np.float32)
    models = []
    for g in gradients:
        u = rho * u + sketch(g)
        e = eta * u + e
        estimate = unsketch(e)
        largest = np.argsort(-np.abs(estimate), kind="stable")[:k]
        delta = np.zeros(n)
        delta[largest] = estimate[largest]
        if zero:
            u, e = np.where(sketch(delta) == 0, u, 0), np.where(sketch(delta) == 0, e, 0)
        else:
            e = e - sketch(delta)
        w = w - delta
        models.append(w)
    return np.stack(models)


@pytest.mark.parametrize("feedback", ["zero", "subtract"])
@pytest.mark.parametrize("rows", [3, 4])
def test_fetch_sgd_is_what_numpy_says(feedback, rows):
    sketch = Sketch(300, rows, 40, Key(7))
    gradients = np.stack([normal(300, t).numpy() for t in range(8)])
    expected = fetch_sgd(dense(sketch), sketch.factor, gradients, 5, 0.9, 0.5, feedback == "zero")
    optimizer = FetchSGD(5, momentum=0.9, lr=0.5, feedback=feedback)
    w, (u, e) = torch.zeros(300), optimizer.init(sketch)
    for g, after in zip(gradients, expected, strict=True):
        step = optimizer.step(sketch, sketch.of(torch.from_numpy(g)), u, e)
        assert len(step.support) == 5
        u, e = step.momentum, step.error
        w[step.support] -= step.values
        np.testing.assert_allclose(w, after, rtol=1e-4, atol=1e-4)


def test_fetch_sgd_on_vectors_that_are_their_own_tables_is_top_k_with_error_feedback():
    spec, codec = Spec((60,)), ErrorFeedback(chain(TopK(0.1)))
    sketch, optimizer = Sketch(60, 5, 12, Key(7)), FetchSGD(6, momentum=0.0, feedback="subtract")
    (u, e), memory = optimizer.init(sketch), codec.memory(spec)
    for t in range(10):
        x = normal(60, t)
        message, memory = codec.encode(x, spec, codec.init(spec), memory, Keys(Key(1), Key(2)))
        expected, _ = codec.decode(message, spec, codec.init(spec))
        step = optimizer.step(sketch, sketch.of(x), u, e)
        u, e = step.momentum, step.error
        torch.testing.assert_close(torch.zeros(60).index_copy_(0, step.support, step.values), expected)


def test_emptying_what_a_step_touched_keeps_the_error_bounded_where_subtracting_does_not():
    sketch, x = Sketch(4000, 5, 80, Key(7)), normal(4000)
    lengths = {}
    for feedback in ("zero", "subtract"):
        optimizer = FetchSGD(40, momentum=0.0, feedback=feedback)
        u, e = optimizer.init(sketch)
        for _ in range(30):
            step = optimizer.step(sketch, sketch.of(x), u, e)
            u, e = step.momentum, step.error
        lengths[feedback] = float(e.norm() / sketch.of(x).norm())
    assert lengths["zero"] < 10
    assert lengths["subtract"] > 1e4


def test_fetch_sgd_of_nothing_changes_nothing():
    sketch, optimizer = Sketch(300, 5, 20, Key(7)), FetchSGD(10)
    u, e = optimizer.init(sketch)
    step = optimizer.step(sketch, torch.zeros(100), u, e)
    assert len(step.support) == len(step.values) == 0
    assert not bool(step.momentum.any()) and not bool(step.error.any())


@pytest.mark.parametrize("kind", [CountSketch, MeanSketch])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("n", [15, 16, 17, 300])  # up to 16 entries a vector is its own table
def test_a_receiver_refuses_a_table_that_is_not_finite(kind, dtype, n):
    x = torch.ones(n, dtype=dtype)
    word = np.float64 if dtype == torch.float64 else np.float32
    for codec in (kind(8, rows=2), kind(8, rows=2, mode="contractive")):
        frame = Sender(codec, Spec.of(x), Key(0)).send(x)
        table = np.frombuffer(payload_of(frame), word)
        assert len(table) == min(n, 16)
        for wrong in (np.inf, -np.inf, np.nan):
            for place in range(len(table)):
                changed = table.copy()
                changed[place] = wrong
                with pytest.raises(WireError, match="not finite"):
                    Receiver(codec, Spec.of(x)).receive(restamp(frame, changed.tobytes()))
