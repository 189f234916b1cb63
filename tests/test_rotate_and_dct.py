"""Rotate and DCT against matrices, and the codecs that stand after them: EDEN's and DeMo's."""

import numpy as np
import pytest
import scipy.fft
import torch

import fewbits as fb
from fewbits import kernels
from fewbits.codecs import DCT, Keys, Rotate, Sign, TopK, Total, chain
from fewbits.codecs.transforms.bases.rotation import Rotation
from fewbits.errors import LocalError
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.testing.promise_laws import bernstein


@pytest.mark.parametrize("n", [1, 2, 3, 31, 32, 33, 63, 100])
def test_a_rotation_is_an_orthogonal_matrix_and_goes_back_by_its_transpose(n):
    rotation, unit = Rotation(n, Key(n)), torch.eye(n, dtype=torch.float64)
    matrix = torch.stack([rotation.forward(row) for row in unit], dim=1)
    assert torch.allclose(matrix @ matrix.T, unit, atol=1e-12)
    assert torch.allclose(torch.stack([rotation.back(row) for row in unit], dim=1), matrix.T, atol=1e-12)


def cosines(x: np.ndarray) -> np.ndarray:
    """SciPy's, along the last axis."""
    return np.asarray(scipy.fft.dct(x, norm="ortho"))


VECTORS = {
    "a few spikes": lambda n: torch.zeros(n).index_fill(0, torch.tensor([0, n // 2, n - 1]), 1.5),
    "heavy tail": lambda n: torch.randn(n, generator=Key(0).generator()) ** 3,
    "layers": lambda n: torch.randn(n, generator=Key(0).generator()) * torch.logspace(-3, 0, n),
}


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("n", [1024, 1500])
def test_an_unbiased_sign_of_a_rotation_is_right_on_average_and_as_noisy_as_theory_says(name, n):
    """Of one bit the noise is pi/2 - 1 times the vector (Vargaftik et al. 2021, theorem 3); of two, Lloyd-Max's."""
    x, spec, draws = VECTORS[name](n), Spec((n,)), 300
    norm2 = float(x.double().square().sum())
    for sizes, noise in ((1, np.pi / 2 - 1), (2, 0.1175 / (1 - 0.1175))):
        codec = chain(Rotate(), Sign(sizes=sizes, mode="unbiased"))
        found = []
        for k in range(draws):
            message, _ = codec.encode(x, spec, (), (), Keys(Key(1), Key(k)))
            found.append(codec.decode(message, spec, ())[0].double() - x.double())
        errors = torch.stack(found)
        assert float(errors.square().sum(1).mean()) == pytest.approx(noise * norm2, rel=0.05)
        reach = float(errors.norm(dim=1).max())
        assert float(errors.mean(0).norm()) <= bernstein(noise * norm2, 2 * reach, draws)
        assert float(errors.mean(0).square().sum()) < 1.3 * noise * norm2 / draws  # its mean if there is no bias


def test_rotated_messages_are_added_before_they_are_turned_back():
    codec, spec = chain(Rotate(), Sign(sizes=2, mode="unbiased")), Spec((100,))
    total, expected = Total(codec, spec), torch.zeros(100)
    for client in range(5):
        x = torch.randn(100, generator=Key(client).generator())
        message, _ = codec.encode(x, spec, (), (), Keys(Key(client), Key(9)))
        total.add(codec.partial(message, spec, ())[0], 0.5)
        expected += 0.5 * codec.decode(message, spec, ())[0]
    assert len(total.carried) == 100
    assert torch.allclose(total.value(), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("c", [1, 2, 4, 16, 64, 256])
def test_the_cosines_are_scipys(c, dtype):
    x = np.random.default_rng(c).standard_normal(3 * c).astype(dtype)
    offsets, close = np.array([0, 3 * c]), {"rtol": 0, "atol": 2e-5 if dtype is np.float32 else 1e-12}
    y = kernels.dct.transform(x, offsets, c)
    np.testing.assert_allclose(y.reshape(3, c), cosines(x.reshape(3, c)), **close)
    np.testing.assert_allclose(kernels.dct.back(y, offsets, c), x, **close)
    table, rows = kernels.dct.matrix(c, dtype), x.reshape(3, c)
    inside = np.zeros((3, c), dtype)
    for j in range(c):  # the order of the sum is part of the wire format
        inside = inside + rows[:, j : j + 1] * table[:, j]
    np.testing.assert_array_equal(y.reshape(3, c), inside)


def test_chunks_begin_anew_with_each_tensor_and_end_in_smaller_ones():
    x = np.random.default_rng(0).standard_normal(13 + 4).astype(np.float32)
    y = kernels.dct.transform(x, np.array([0, 13, 13, 17]), 8)
    for start, end in ((0, 8), (8, 12), (12, 13), (13, 17)):
        np.testing.assert_allclose(y[start:end], cosines(x[start:end]), atol=1e-6)


def test_a_smooth_vector_has_few_coefficients():
    x, spec = torch.sin(torch.linspace(0, 3, 4096)), Spec((4096,))
    losses = {}
    for codec in (chain(TopK(1 / 32)), chain(DCT(64), TopK(1 / 32))):
        value = fb.Receiver(codec, spec).receive(fb.Sender(codec, spec, Key(0)).send(x))
        losses[len(codec.transforms)] = float((value - x).square().sum() / x.square().sum())
    assert losses[2] < 1e-3 < 0.5 < losses[1]


def test_what_is_no_chunk_is_refused():
    for chunk in (0, 1, 48, 2048):
        with pytest.raises(LocalError, match="DCT: chunk"):
            DCT(chunk)
    with pytest.raises(LocalError, match="power of two up to 1024"):
        kernels.dct.transform(np.ones(4, np.int32), np.array([0, 4]), 4)
    with pytest.raises(LocalError, match="offsets must ascend"):
        kernels.dct.back(np.ones(4, np.float32), np.array([0, 5]), 4)
    with pytest.raises(LocalError, match="Rotate: seed"):
        Rotate(seed="x")  # pyright: ignore
    with pytest.raises(LocalError, match=r"rotated entries .* leave the range"):
        chain(Rotate()).encode(torch.full((4096,), 1e38), Spec((4096,)), (), (), Keys(Key(0), Key(0)))
