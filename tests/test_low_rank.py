"""LowRank against NumPy's linear algebra."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from every_codec import restamp
from fewbits import kernels
from fewbits.codecs import ErrorFeedback, Keys, LowRank, chain
from fewbits.errors import LocalError, WireError
from fewbits.links import Receiver, Sender
from fewbits.rng import Key
from fewbits.spec import Spec

KEYS = Keys(Key(1), Key(2))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return Key(seed).fold("low_rank").normal(math.prod(shape)).reshape(shape)


def round_trip(codec: LowRank, x: torch.Tensor, spec: Spec, keys: Keys = KEYS) -> torch.Tensor:
    side, carrier = codec.split(x, spec, keys)
    assert Spec.of(carrier) == codec.carrier(side, spec)
    return codec.join(None, carrier, spec)


def loss(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).square().sum() / b.double().square().sum())


@pytest.mark.parametrize(("m", "n", "r"), [(1, 1, 1), (3, 40, 2), (17, 16, 3), (33, 47, 5), (64, 64, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_kernels_are_products(m, n, r, dtype):
    matrix, p, q = normal(m, n).astype(dtype), normal(r, m, seed=1).astype(float), normal(r, n, seed=2).astype(float)
    np.testing.assert_allclose(kernels.low_rank.times(matrix, q), q @ matrix.T.astype(float), atol=1e-10)
    np.testing.assert_allclose(kernels.low_rank.times_transposed(matrix, p), p @ matrix.astype(float), atol=1e-10)
    found = kernels.low_rank.expand(p.astype(dtype), q.astype(dtype))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, p.astype(dtype).T.astype(float) @ q.astype(dtype), rtol=1e-6, atol=1e-6)


def test_orthonormal_rows_span_what_was_given_and_zeros_fill_up_a_lower_rank():
    p = normal(4, 30).astype(float)
    q = kernels.low_rank.orthonormalise(p)
    np.testing.assert_allclose(q @ q.T, np.eye(4), atol=1e-14)
    np.testing.assert_allclose(p @ q.T @ q, p, atol=1e-12)
    nearly = np.stack([p[0], p[0] + 1e-9 * p[1], 2 * p[0], 0 * p[0], p[2]])
    q = kernels.low_rank.orthonormalise(nearly)
    np.testing.assert_allclose(q @ q.T, np.diag([1, 1, 0, 0, 1]), atol=1e-12)


def test_factors_of_another_length_are_refused():
    matrix = normal(3, 4)
    for wrong in (
        lambda: kernels.low_rank.times(matrix, np.zeros((2, 3))),
        lambda: kernels.low_rank.times_transposed(matrix, np.zeros((2, 4))),
        lambda: kernels.low_rank.times(matrix, np.zeros(4)),
        lambda: kernels.low_rank.expand(np.zeros((2, 3)), np.zeros((1, 3))),
    ):
        with pytest.raises(LocalError):
            wrong()


@pytest.mark.parametrize("rank", [1, 3, 7])
@pytest.mark.parametrize("passes", [1, 3])
def test_the_receiver_has_the_projection_on_the_range_of_m_q(rank, passes):
    m, n = 25, 24
    x = normal(m * n)
    matrix, q = x.reshape(m, n).astype(float), Key(2).fold("low_rank", 0).normal(rank * n).reshape(rank, n).T
    for _ in range(passes):
        p, _ = np.linalg.qr(matrix @ q)
        q = matrix.T @ p
    found = round_trip(LowRank(rank, passes=passes), torch.from_numpy(x), Spec((m * n,)))
    np.testing.assert_allclose(found.numpy(), (p @ q.T).reshape(-1), atol=2e-6)


def test_a_matrix_of_that_rank_comes_back():
    matrix = normal(40, 3) @ normal(3, 40, seed=1)
    for rank in (3, 5):
        assert (
            loss(
                round_trip(LowRank(rank), torch.from_numpy(matrix.reshape(-1)), Spec((1600,))),
                torch.from_numpy(matrix.reshape(-1)),
            )
            < 1e-12
        )


def test_more_passes_come_nearer_to_the_best_matrix_of_the_rank():
    matrix = normal(30, 30) * np.geomspace(1, 0.05, 30, dtype=np.float32)
    x, singular = torch.from_numpy(matrix.reshape(-1)), np.linalg.svd(matrix.astype(float))[1]
    best = float((singular[4:] ** 2).sum() / (singular**2).sum())
    losses = [loss(round_trip(LowRank(4, passes=passes), x, Spec((900,))), x) for passes in (1, 2, 4, 16)]
    assert losses == sorted(losses, reverse=True)
    assert best <= losses[-1] + 1e-9 and losses[-1] < 1.01 * best < losses[0]


def test_the_promised_delta_holds_for_the_flattest_spectrum_and_is_met_there():
    """All singular values alike: no subspace is better than another, and the bound is an equality."""
    n, rank = 12, 2
    x = torch.eye(n).reshape(-1)
    spec = Spec((n * n,))
    delta = LowRank(rank).contract(spec).delta
    assert delta == rank / n
    assert abs(loss(round_trip(LowRank(rank), x, spec), x) - (1 - delta)) < 1e-6


def test_each_tensor_has_a_matrix_of_its_own_unless_whole():
    spec = Spec((541,), segments=(500, 5, 36, 0))
    tensor, whole = LowRank(2), LowRank(2, per="whole")
    assert [(p.m, p.n, p.rank) for p in tensor.pieces(spec)] == [(23, 22, 2), (3, 2, 0), (6, 6, 2), (0, 0, 0)]
    assert tensor.carrier(None, spec).numel == 2 * 45 + 5 + 2 * 12
    assert [(p.m, p.n) for p in whole.pieces(spec)] == [(24, 23)]
    x = torch.from_numpy(normal(541))
    found = round_trip(tensor, x, spec)
    assert torch.equal(found[500:505], x[500:505])  # too short to have factors
    alone = round_trip(tensor, x[:500].clone(), Spec((500,)))
    assert torch.equal(found[:500], alone)


def test_a_weight_of_low_rank_comes_back_in_its_own_shape_and_in_no_other():
    x = torch.from_numpy((normal(60, 2) @ normal(2, 20, seed=1)).reshape(-1))
    spec = Spec((1200,))
    assert loss(round_trip(LowRank(2, columns=20), x, spec), x) < 1e-12
    assert loss(round_trip(LowRank(2), x, spec), x) > 0.5
    (piece,) = LowRank(2, columns=20).pieces(spec)
    assert (piece.m, piece.n, piece.numbers) == (60, 20, 160)
    assert LowRank(2, columns=5000).pieces(spec)[0].rank == 0  # one row: factors would be no smaller


@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e-20, 1e20, 3e38])
def test_no_size_overflows_or_is_lost(size):
    x = torch.from_numpy(np.clip(normal(400) / 4, -1, 1).astype(np.float64) * size)
    for dtype in (torch.float32, torch.float64):
        y = x.to(dtype)
        found = round_trip(LowRank(19), y, Spec.of(y))  # 760 numbers for 400: as it is
        assert torch.equal(found, y)
        found = round_trip(LowRank(9), y, Spec.of(y))
        assert bool(torch.isfinite(found).all())
        if size > 1e-40:
            assert loss(found / size, y / size) < 0.6
    if size == 1e20:
        huge = x * 1e288
        assert loss(round_trip(LowRank(9), huge, Spec.of(huge)) / 1e308, huge / 1e308) < 0.6


def test_factors_are_about_as_large_as_each_other():
    for scale in (1e-6, 1.0, 1e6):
        x = torch.from_numpy(normal(10_000)) * scale
        _, carrier = LowRank(4).split(x, Spec((10_000,)), KEYS)
        p, q = carrier.split(400)
        assert 0.2 < float(p.abs().max() / q.abs().max()) < 5


def test_error_feedback_around_it_gives_everything_in_time():
    codec, spec, x = ErrorFeedback(chain(LowRank(2))), Spec((400,)), torch.from_numpy(normal(400))
    memory, total = codec.memory(spec), torch.zeros(400)
    for t in range(200):
        message, memory = codec.encode(x, spec, codec.init(spec), memory, Keys(Key(1), Key(2).fold(t)))
        total += codec.decode(message, spec, codec.init(spec))[0]
    assert loss(total / 200, x) < 0.01


def test_factors_that_are_not_finite_are_refused():
    x = torch.from_numpy(normal(400))
    frame = Sender(chain(LowRank(2)), Spec.of(x), Key(1), Key(2)).send(x)
    for bad in (np.inf, np.nan):
        payload = bytearray(frame[16:])
        payload[-4:] = np.array([bad], "<f4").tobytes()
        with pytest.raises(WireError, match="finite"):
            Receiver(chain(LowRank(2)), Spec.of(x), Key(2)).receive(restamp(frame, bytes(payload)))


def test_options_that_cannot_be_are_refused():
    for wrong in (
        lambda: LowRank(0),
        lambda: LowRank(True),
        lambda: LowRank(2, passes=0),
        lambda: LowRank(2, per="layer"),
        lambda: LowRank(2, columns=0),
    ):
        with pytest.raises(LocalError, match="LowRank"):
            wrong()
