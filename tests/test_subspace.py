"""Random bases: adjoints, dense forms, draws that are the same everywhere; and Subspace, the codec made of them."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.linalg import block_diag, hadamard
from scipy.special import ndtri

from fewbits.codecs import Basis, ErrorFeedback, Keys, Quantize, Subspace, Total, chain
from fewbits.codecs.transforms.bases import KINDS, SCALES, arithmetic, basis, fastfood, sparse
from fewbits.coders import Rans
from fewbits.errors import LocalError
from fewbits.links import Receiver, Sender
from fewbits.rng import Key, quantile
from fewbits.spec import Spec

EXACT = ("hadamard", "sparse")  # orthonormal columns, exactly


def normal(n: int, *labels: int | str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(Key(n).fold(*labels).normal(n)).to(dtype)


def dense(b: Basis) -> np.ndarray:
    """All columns.  # (numel, dim) float64"""
    return torch.stack([b.expand(e) for e in torch.eye(b.dim, dtype=torch.float64)], 1).numpy()


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return np.abs(a - b).max() <= 1e-5 * max(np.abs(b).max(), 1e-3)


# Key.normal, Key.shuffle


def test_quantiles_are_those_of_the_normal_distribution():
    p = np.concatenate([(np.arange(4096) + 0.5) * 2.0**-32, np.geomspace(2.0**-33, 0.5, 100_001)])
    assert np.abs(quantile(p) + ndtri(p)).max() < 1e-6


def test_normal_draws_are_quantiles_of_words():
    words = Key(3).bits(1000).view(np.uint32)
    expected = np.where(words >> 31, 1, -1) * ndtri(((words & 0x7FFFFFFF) + 0.5) / 2**32)
    drawn = Key(3).normal(2000)
    assert drawn.dtype == np.float32
    assert np.abs(drawn - expected).max() <= 2.0**-17 + 2e-6
    assert np.array_equal(drawn * 65536, np.round(drawn * 65536))
    assert np.array_equal(Key(3).normal(7), drawn[:7])


def test_normal_draws_are_normal():
    drawn = Key(0).fold("normal").normal(200_000)
    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    assert abs(float(np.mean(drawn.astype(float) ** 4)) - 3) < 0.1


def test_a_shuffle_holds_each_index_once_and_every_order_is_equally_likely():
    for n in (0, 1, 2, 3, 1000, 4096):
        assert np.array_equal(np.sort(Key(1).shuffle(n, rows=3), axis=1), np.tile(np.arange(n), (3, 1)))
    orders, counts = np.unique(Key(2).shuffle(4, rows=4800), axis=0, return_counts=True)
    assert len(orders) == 24 and stats.chisquare(counts).pvalue > 1e-3
    with pytest.raises(LocalError, match="shuffle"):
        Key(0).shuffle(-1)


# Golden values: these may never change, or old subspaces cannot be drawn again.
NORMAL = [99318, -14729, 50477, -36203, 6692, 16056, -121664, -60054]
SHUFFLE = [4, 6, 2, 8, 9, 3, 1, 5, 0, 7]
DIGESTS = {
    "fastfood": ["d88b3795f1dc8475", "96c1dba3971224e9", "ae0da738bac0e823", "2a80ad9586e69964"],
    "hadamard": ["eff142d38c971d25", "933865e4ccd405d4", "0427c9de52589e79", "4fa03566ada93c84"],
    "sparse": ["c2b5457fdc114bac", "7dbfe37b6cc395a6", "2b2e24576e011174", "ca1b051a8aa387ec"],
    "gaussian": ["3f6d2c3b3d645600", "164836b14c1bbcfd", "23c92aa2e866e583", "31eb310a8fe1e35d"],
}


def digest(x: torch.Tensor) -> str:
    return hashlib.blake2b(x.numpy().tobytes(), digest_size=8).hexdigest()


def golden(kind: str) -> list[str]:
    """Rows and coordinates, in one block and in several."""
    found = []
    for numel, dim in ((41, 8), (6000, 100)):
        b = Basis(numel, dim, Key(7), kind)
        found += [digest(b.expand(normal(dim))), digest(b.project(normal(numel)))]
    return found


def test_golden_draws():
    assert (Key(0).normal(8) * 65536).astype(int).tolist() == NORMAL
    assert Key(0).shuffle(10).tolist()[0] == SHUFFLE


@pytest.mark.parametrize("kind", KINDS)
def test_golden_bases(kind):
    assert golden(kind) == DIGESTS[kind]


def test_golden_draws_of_fastfood():
    (block,) = fastfood.Fastfood(60, 8, Key(7)).blocks
    key = Key(7).fold("block", 0)
    assert block.signs.tolist() == key.fold("B").signs(8).tolist()
    assert block.places.tolist() == key.fold("P").shuffle(64)[0].tolist()
    assert block.gains.tolist() == key.fold("G").normal(64).tolist()


# What a basis is.

SIZES = [(1, 1), (2, 1), (2, 2), (3, 2), (5, 5), (17, 4), (41, 41), (1000, 1), (1000, 1000), (4097, 300), (9000, 8192)]
SIZES += [(70_001, 64), (600_000, 4096), (600_000, 1)]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", KINDS)
def test_project_is_the_adjoint_of_expand(kind, scale):
    large = [(3_000_000, 8192)] if kind != "gaussian" and scale == "orthonormal" else []
    for numel, dim in SIZES + large:
        if kind == "gaussian" and numel * dim > 5_000_000:
            continue
        b = Basis(numel, dim, Key(1), kind, scale)
        s, x = normal(dim, "s"), normal(numel, "x")
        y, t = b.expand(s).double(), b.project(x).double()
        assert y.shape == (numel,) and t.shape == (dim,)
        bound = float(y.norm() * x.double().norm())
        assert abs(float(y @ x.double()) - float(s.double() @ t)) <= 1e-5 * bound


def fastfood_formula(b: Basis) -> np.ndarray:
    """papers.md's formula with dense matrices, block under block."""
    rows = []
    for i, (start, stop, L) in enumerate(fastfood.blocks(b.numel, b.dim)):
        key, H = b.key.fold("block", i), hadamard(L).astype(float)
        B = np.zeros(L)
        B[: b.dim] = key.fold("B").signs(b.dim)
        G, P = key.fold("G").normal(L).astype(float), key.fold("P").shuffle(L)[0]
        M = H @ (G[:, None] * (H @ np.diag(B))[P]) / math.sqrt(L * np.sum(G**2)) / math.sqrt(b.numel / L)
        rows.append(M[: stop - start, : b.dim])
    return np.concatenate(rows)


@pytest.mark.parametrize(("numel", "dim"), [(1, 1), (41, 8), (64, 64), (50, 33), (70, 3), (700, 20)])
def test_fastfood_is_its_formula(numel, dim):
    b = Basis(numel, dim, Key(5))
    assert close(dense(b), fastfood_formula(b))


def test_fastfood_is_the_same_when_few_places_are_shared(monkeypatch):
    whole = dense(Basis(200, 5, Key(5)))
    monkeypatch.setattr(fastfood, "LEAST", 16)
    monkeypatch.setattr(basis, "_MATRIX_CACHE", basis._Cache(1))
    b = Basis(200, 5, Key(5))
    assert {block.width for block in basis._MATRIX_CACHE.of(b).blocks} == {8, 16}
    assert close(dense(b), whole)
    x = normal(200)
    assert close(b.project(x).numpy(), whole.T @ x.numpy())


def test_randomised_hadamard_is_its_formula():
    for numel, dim in ((1, 1), (41, 8), (64, 64), (75, 75)):
        key = Key(5)
        sizes = [2**k for k in reversed(range(8)) if numel >> k & 1]
        Q = block_diag(*(hadamard(n) / math.sqrt(n) for n in sizes))
        A = (key.fold("B").signs(numel)[:, None] * Q)[:, key.fold("S").subset(dim, numel)]
        assert close(dense(Basis(numel, dim, key, "hadamard")), A)


def test_sparse_has_one_entry_in_each_row_and_balanced_columns():
    for numel, dim in ((1, 1), (41, 8), (40, 8), (41, 41), (9, 1)):
        A = dense(Basis(numel, dim, Key(5), "sparse"))
        assert ((A != 0).sum(1) == 1).all()
        counts = (A != 0).sum(0)
        assert counts.max() - counts.min() <= 1
        assert close(np.abs(A).sum(0), np.sqrt(counts))


def test_gaussian_rows_are_drawn_in_stretches():
    drawn = [Key(5).fold("rows", i).normal(min(4, 41 - i) * 1000).reshape(-1, 1000) for i in range(0, 41, 4)]
    expected = np.concatenate(drawn)[:, :41] / math.sqrt(41)
    assert dense(Basis(41, 1, Key(5), "gaussian")).shape == (41, 1)
    s = torch.zeros(1000)
    s[:41] = normal(41)
    wide = Basis(1000, 1000, Key(5), "gaussian").expand(s)[:41].numpy() * math.sqrt(1000 / 41)
    assert close(wide, expected @ s[:41].numpy())


@pytest.mark.parametrize("kind", EXACT)
def test_columns_are_exactly_orthonormal(kind):
    for numel, dim in ((1, 1), (41, 8), (75, 75), (128, 128), (1000, 33)):
        A = dense(Basis(numel, dim, Key(3), kind))
        assert np.abs(A.T @ A - np.eye(dim)).max() < 1e-6


def test_a_square_hadamard_basis_loses_nothing_but_rounding():
    for numel in (1, 2, 75, 101_770):
        b, x = Basis(numel, numel, Key(3), "hadamard"), normal(numel)
        torch.testing.assert_close(b.expand(b.project(x)), x, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(b.project(b.expand(x)), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["fastfood", "gaussian"])
def test_columns_are_nearly_orthonormal(kind):
    numel, dim = 3000, 64
    gram = dense(Basis(numel, dim, Key(3), kind))
    gram = gram.T @ gram
    assert abs(float(np.diag(gram).mean()) - 1) < 0.02
    assert np.abs(np.diag(gram) - 1).max() < 0.15
    off = gram - np.diag(np.diag(gram))
    assert 0.5 < np.sqrt(np.mean(off**2)) * math.sqrt(numel) < 1.5  # as independent directions have it
    assert np.abs(off).max() < 6 / math.sqrt(numel)


@pytest.mark.parametrize("kind", KINDS)
def test_on_average_over_keys_an_unbiased_basis_gives_the_vector_back(kind):
    numel, dim, draws = 11, 4, 300
    total = np.zeros((numel, numel))
    for k in range(draws):
        A = dense(Basis(numel, dim, Key(9).fold(k), kind, "unbiased"))
        total += A @ A.T
    # Entries of A A^T have a variance near numel/dim or less.
    assert np.abs(total / draws - np.eye(numel)).max() < 5 * math.sqrt(numel / dim / draws)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_subspace_captures_of_an_isotropic_vector_is_one_on_average(kind):
    found = [Basis(3000, 50, Key(k), kind, SCALES[k % 2]).captured(normal(3000, k)) for k in range(30)]
    assert abs(float(np.mean(found)) - 1) < 5 * math.sqrt(2 / 50 / 30)
    assert Basis(10, 2, Key(0), kind).captured(torch.zeros(10)) == 0
    b = Basis(500, 50, Key(0), kind)
    assert b.captured(b.expand(normal(50))) > 5  # a vector within the subspace: 10 when columns are orthonormal


def test_unbiased_columns_are_sqrt_of_numel_over_dim_long():
    for kind in KINDS:
        one, other = Basis(50, 8, Key(0), kind), Basis(50, 8, Key(0), kind, "unbiased")
        assert close(dense(other), dense(one) * math.sqrt(50 / 8))


@pytest.mark.parametrize("numel", [1, 2, 41, 1000, 600_000, 1_000_000, 1_048_577, 3_000_000, 124_439_808])
@pytest.mark.parametrize("dim", [1, 100, 8192])
def test_blocks_cover_all_rows_with_little_padding(numel, dim):
    if dim > numel:
        return
    found = list(fastfood.blocks(numel, dim))
    assert [start for start, _, _ in found] == [0, *(stop for _, stop, _ in found[:-1])] and found[-1][1] == numel
    assert all(size >= max(dim, stop - start) and size & (size - 1) == 0 for start, stop, size in found)
    least = arithmetic.power_of_two(dim)
    assert sum(size for _, _, size in found) - numel <= max(numel / 8, least - 1)
    assert max(size for _, _, size in found) <= 2**20


def test_a_million_parameters_are_one_block():
    assert list(fastfood.blocks(1_000_000, 4096)) == [(0, 1_000_000, 2**20)]


@pytest.mark.parametrize("kind", KINDS)
def test_plain_torch_gives_the_same_bits_as_the_compiled_loops(kind, monkeypatch):
    for numel, dim in ((1, 1), (41, 8), (70_001, 64), (9000, 8192)):
        if kind == "gaussian" and numel * dim > 5_000_000:
            continue
        b, s, x = Basis(numel, dim, Key(1), kind), normal(dim), normal(numel)
        expected = b.expand(s), b.project(x)
        with monkeypatch.context() as patch:
            patch.setattr(arithmetic, "compiled", lambda x: False)
            assert torch.equal(b.expand(s), expected[0])
            assert torch.equal(b.project(x), expected[1])


def test_results_do_not_depend_on_the_number_of_threads():
    threads = torch.get_num_threads()
    x, found = normal(300_000), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append([Basis(300_000, 64, Key(1), kind).project(x) for kind in ("fastfood", *EXACT)])
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *found))


def test_inputs_are_not_changed_and_double_precision_is_kept():
    for kind in KINDS:
        b, s, x = Basis(41, 8, Key(1), kind), normal(8), normal(41)
        before = s.clone(), x.clone()
        y, t = b.expand(s), b.project(x)
        assert torch.equal(s, before[0]) and torch.equal(x, before[1])
        assert y.dtype == t.dtype == torch.float32
        assert b.project(x.double()).dtype == torch.float64
        torch.testing.assert_close(b.project(x.double()).float(), t, rtol=1e-5, atol=1e-5)
        assert b.expand(s.bfloat16()).dtype == torch.float32


def test_matrices_that_are_kept_are_bounded():
    cache = basis._Cache(300_000)
    for k in range(20):
        matrix = cache.of(Basis(10_000, 8, Key(k)))
        assert cache.of(Basis(10_000, 8, Key(k), scale="unbiased")) is matrix
        assert cache.nbytes <= 300_000
    large = cache.of(Basis(100_000, 8, Key(0)))
    assert cache.of(Basis(100_000, 8, Key(0))) is large  # the last one always is
    assert isinstance(cache.of(Basis(10, 2, Key(0), "sparse")), sparse.Sparse)
    assert cache.nbytes == sum(matrix.nbytes + 1024 for matrix in cache._found.values())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Basis(7, 8, Key(0)), "7 parameters have no subspace of dim = 8"),
        (lambda: Basis(0, 1, Key(0)), "0 parameters have no subspace of dim = 1"),
        (lambda: Basis(7, 0, Key(0)), "dim must be a whole number, 1 or more; got 0"),
        (lambda: Subspace(0), "Subspace: dim must be a whole number, 1 or more; got 0"),
        (lambda: Subspace(2.0), "got 2.0"),
        (lambda: Subspace(True), "got True"),
        (lambda: Subspace(4, basis="dct"), "one of fastfood, hadamard, sparse, gaussian; got 'dct'"),
        (lambda: Subspace(4, scale="unit"), "orthonormal, unbiased; got 'unit'"),
        (lambda: Subspace(4, seed="a"), "seed must be a whole number, or None for a fresh basis; got 'a'"),
        (lambda: Basis(7, 2, Key(0)).expand(torch.zeros(3)), "float vector of 2 entries"),
        (lambda: Basis(7, 2, Key(0)).project(torch.zeros(7, dtype=torch.int64)), "float vector of 7 entries"),
        (lambda: ErrorFeedback(Subspace(4, scale="unbiased")), "not a contraction"),
    ],
)
def test_mistakes_are_sentences_with_the_values(make, message):
    with pytest.raises(LocalError, match=message):
        make()


# The codec. The laws of every codec (test_every_codec.py and its neighbours) hold for its examples.

SPEC = Spec((1000,))


def frame_of(codec: Subspace, x: torch.Tensor, sender: int, common: Key) -> bytes:
    return Sender(chain(codec), Spec((len(x),)), Key(sender), common).send(x)


def test_a_frame_holds_dim_numbers_and_a_header():
    assert len(frame_of(Subspace(64), normal(1000), 1, Key(0))) == 16 + 4 * 64


def test_a_fixed_seed_keeps_its_subspace_and_none_draws_another_in_every_frame():
    keys = [Keys(Key(0), Key(2).fold(t)) for t in range(2)]
    x = normal(1000)
    a, b = (Subspace(8).split(x, SPEC, k) for k in keys)
    assert a[0] == b[0] and torch.equal(a[1], b[1])
    a, b = (Subspace(8, seed=None).split(x, SPEC, k) for k in keys)
    assert a[0] != b[0] and not torch.equal(a[1], b[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [7, None])
def test_the_sum_of_messages_is_the_message_of_the_sum(kind, seed):
    codec, keys = Subspace(50, seed, kind), Keys(Key(0), Key(1))
    xs = [normal(1000, k) for k in range(8)]
    total = sum(codec.split(x, SPEC, keys)[1] for x in xs)
    side, expected = codec.split(sum(xs), SPEC, keys)
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        codec.join(side, total, SPEC),
        sum(codec.join(*codec.split(x, SPEC, keys), SPEC) for x in xs),
        rtol=1e-5,
        atol=1e-5,
    )


def test_a_server_expands_once_for_all_senders(monkeypatch):
    codec = chain(Subspace(50, seed=None))
    calls, expand = [], Basis.expand
    monkeypatch.setattr(Basis, "expand", lambda self, s: calls.append(1) or expand(self, s))
    total = Total(codec, SPEC)
    for k in range(5):
        message, _ = codec.encode(normal(1000, k), SPEC, (), (), Keys(Key(k), Key(0)))
        total.add(codec.partial(message, SPEC, ())[0], 0.2)
    assert calls == []
    total.value()
    assert calls == [1]


def test_shorter_vectors_travel_as_they_are():
    for n in range(9):
        x, codec = normal(n), Subspace(8 if n < 8 else 9)
        spec = Spec((n,))
        assert codec.contract(spec).lossless
        assert torch.equal(Receiver(chain(codec), spec, Key(0)).receive(frame_of(codec, x, 1, Key(0))), x)


def test_promises_are_made_for_fresh_exact_bases_only():
    for kind in KINDS:
        fixed, fresh = (Subspace(100, seed, kind).contract(SPEC) for seed in (7, None))
        assert fixed.delta is None and fresh.delta == (0.1 if kind in EXACT else None)
        fresh = Subspace(100, None, kind, "unbiased").contract(SPEC)
        assert fresh.omega == (9 if kind in EXACT else None) and fresh.delta is None
        assert fixed.linear and fixed.portable and fixed.payload_bits == 0
        assert Subspace(100, None, kind).projection == (kind in EXACT)


def test_values_that_overflow_are_refused_with_their_size():
    with pytest.raises(LocalError, match=r"entries up to 3e\+38 in the unbiased scale"):
        Subspace(1, scale="unbiased").split(torch.full((1000,), 3e38), SPEC, Keys(Key(0), Key(0)))


def test_half_precision_has_coordinates_in_single():
    x, spec = normal(1000).bfloat16(), Spec((1000,), "bfloat16")
    side, s = Subspace(50).split(x, spec, Keys(Key(0), Key(0)))
    assert s.dtype == torch.float32 and Subspace(50).carrier(side, spec).dtype == "float32"
    assert Subspace(50).join(side, s, spec).dtype == torch.bfloat16


def test_coordinates_may_be_quantised():
    codec = chain(Subspace(256, basis="hadamard"), Quantize(bits=8), Rans())
    x = Basis(1000, 256, Key(7).fold("subspace"), "hadamard").expand(normal(256))
    sender, receiver = Sender(codec, SPEC, Key(0)), Receiver(codec, SPEC)
    y = receiver.receive(sender.send(x))
    assert float((y - x).norm() / x.norm()) < 0.02


@pytest.mark.parametrize("kind", ["sparse", "fastfood"])
@pytest.mark.parametrize("scale", ["orthonormal", "unbiased"])
def test_moving_is_expanding_and_adding_bit_for_bit(kind, scale):
    basis = Basis(1003, 64, Key(5), kind, scale)
    s, start = (torch.randn(n, generator=Key(n).generator()) for n in (64, 1003))
    before = start.clone()
    assert torch.equal(basis.moved(start, s), basis.expand(s).add_(start))
    assert torch.equal(start, before)
