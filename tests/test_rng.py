"""Key: the same words everywhere, fair draws, and no global state."""

import random
from dataclasses import FrozenInstanceError
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import stats

from fewbits.errors import LocalError
from fewbits.rng import Key

WORD = 2**64 - 1
FOLDED = Key(0).fold("round", 3, "client", 7, "up")
KEYS = [Key(0), FOLDED, Key(-5).fold("a"), Key(2**100)]


def philox(counter, key):
    """Philox4x64-10, Salmon et al. 2011, section 3.3, as Random123 states it: four words from a counter and a key."""
    a, b, c, d = counter
    low, high = key
    for _ in range(10):
        left, right = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = (right >> 64) ^ b ^ low, right & WORD, (left >> 64) ^ d ^ high, left & WORD
        low, high = (low + 0x9E3779B97F4A7C15) & WORD, (high + 0xBB67AE8584CAA73B) & WORD
    return a, b, c, d


def words(key, n):
    """Key.bits by the oracle: blocks 1, 2, 3, ... of the counter under the key's digest."""
    digest = key.digest(16)
    pair = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
    blocks = (philox((block, 0, 0, 0), pair) for block in range(1, n // 4 + 2))
    return [word for block in blocks for word in block][:n]


def test_the_oracle_gives_the_known_answers_of_random123():
    zeros = (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B)
    ones = (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0)
    assert philox((0,) * 4, (0, 0)) == zeros
    assert philox((WORD,) * 4, (WORD, WORD)) == ones


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 1000])
def test_words_are_philox_in_counter_mode(key, n):
    bits = key.bits(n)
    assert bits.dtype == np.uint64
    assert bits.tolist() == words(key, n)


@pytest.mark.parametrize("key", KEYS)
def test_signs_and_uniforms_are_made_of_the_words(key):
    for n in [0, 1, 63, 64, 65, 130]:
        one_by_one = [1 - 2 * (words(key, i // 64 + 1)[i // 64] >> i % 64 & 1) for i in range(n)]
        assert key.signs(n).tolist() == one_by_one and key.signs(n).dtype == np.int8
        halves = [half for word in words(key, n) for half in (word & 0xFFFFFFFF, word >> 32)][:n]
        assert key.uniform(n).tolist() == [(half >> 8) / 2**24 for half in halves]
        assert key.uniform(n).dtype == np.float32


# Golden values: these may never change, or old supports and rotations cannot be drawn again.
GOLDEN = [
    (
        Key(0),
        "51002811fe809cb4051b141038aa32d4",
        [0xE93D14971098853D, 0xCA53498738782CBE, 0x673A451D7596C47C, 0xAE03A711881D2FE0],
        [-1, 1, -1, -1, -1, -1, 1, 1, -1, 1, -1, 1],
        [1087621, 15285524, 3700780, 13259593, 7706308],
        [613, 141, 428, 893, 845, 268],
        [15, 20, 26, 28, 39],
        [0, 1, 2, 5, 6],
        [4, 6, 2, 3, 1, 5, 0, 7],
    ),
    (
        FOLDED,
        "34040999f8325c5ffc66b05ab7de357a",
        [0x2B467168904511FA, 0x81FA632709EDD4EB, 0x14436644CD657159, 0xF34251BBCB61B474],
        [1, -1, 1, -1, -1, -1, -1, -1, -1, 1, 1, 1],
        [9454865, 2836081, 650708, 8518243, 13460849],
        [215, 590, 922, 14, 819, 55],
        [3, 4, 5, 22, 40],
        [0, 1, 3, 5, 6],
        [2, 5, 7, 0, 1, 6, 3, 4],
    ),
]


@pytest.mark.parametrize(("key", "digest", "bits", "signs", "uniform", "below", "few", "most", "permutation"), GOLDEN)
def test_golden_values(key, digest, bits, signs, uniform, below, few, most, permutation):
    assert key.digest().hex() == digest
    assert key.bits(4).tolist() == bits
    assert key.signs(12).tolist() == signs
    assert (key.uniform(5) * 2**24).tolist() == uniform
    assert key.below(1000, 6).tolist() == below
    assert key.subset(5, 50).tolist() == few
    assert key.subset(5, 7).tolist() == most
    assert key.permutation(8).tolist() == permutation


def test_different_labels_give_different_streams():
    keys = [
        Key(0),
        Key(1),
        Key(-1),
        Key(0).fold("a", "b"),
        Key(0).fold("ab"),
        Key(0).fold("b", "a"),
        Key(0).fold("a"),
        Key(0).fold("a", ""),
        Key(0).fold("", "a"),
        Key(0).fold(1),
        Key(0).fold("1"),
        Key(0).fold("i1"),
        Key(0).fold(-1),
        Key(0).fold(1, 1),
        Key(0).fold(11),
        Key(0).fold("é"),
        Key(1).fold(0),
    ]
    for a, b in combinations(keys, 2):
        assert a != b and a.digest() != b.digest() and a.bits(2).tolist() != b.bits(2).tolist()


def test_folding_one_by_one_is_folding_at_once():
    assert Key(3).fold("a").fold(1).fold("b") == Key(3).fold("a", 1, "b")
    assert Key(3).fold() == Key(3)


def test_equal_keys_give_equal_streams():
    # True == 1 in Python: a bool label would break this law, so it is refused below
    assert Key(7).fold("x", 1) == Key(7, ("x", 1)) and Key(7).fold("x", 1).word() == Key(7, ("x", 1)).word()


@pytest.mark.parametrize("label", [1.0, None, b"a", True, ("a",)])
def test_labels_are_integers_and_strings(label):
    with pytest.raises(LocalError, match="labels"):
        Key(0).fold("a", label)
    with pytest.raises(LocalError, match="labels"):
        Key(0, (label,))


@pytest.mark.parametrize("seed", [1.0, "0", None, True])
def test_the_seed_is_an_integer(seed):
    with pytest.raises(LocalError, match="seed"):
        Key(seed)


def test_keys_are_values():
    assert len({Key(0).fold("a"), Key(0).fold("a"), Key(0).fold("b")}) == 2
    assert eval(repr(FOLDED)) == FOLDED
    with pytest.raises(FrozenInstanceError):
        FOLDED.seed = 1  # pyright: ignore[reportAttributeAccessIssue]


def fair(counts):
    """Chi-square against equal counts; the seeds are fixed, so this is a fact and not a chance."""
    assert stats.chisquare(np.asarray(counts)).pvalue > 1e-3


def test_draws_are_uniform():
    key = Key(0).fold("uniformity")
    fair(np.bincount(key.signs(100_000) + 1, minlength=3)[::2])
    fair(np.bincount((key.uniform(100_000) * 64).astype(int), minlength=64))
    fair(np.bincount(key.below(97, 100_000), minlength=97))
    fair(np.bincount((key.bits(100_000) >> np.uint64(58)).astype(int), minlength=64))
    fair(np.bincount((key.bits(100_000) & np.uint64(63)).astype(int), minlength=64))


@pytest.mark.parametrize(("k", "n"), [(2, 5), (3, 5), (1, 6), (5, 6), (3, 6)])
def test_every_subset_is_equally_likely(k, n):
    table = dict.fromkeys(combinations(range(n), k), 0)
    for draw in range(2000):
        table[tuple(Key(1).fold("subset", k, n, draw).subset(k, n).tolist())] += 1
    fair(list(table.values()))


def test_every_permutation_is_equally_likely():
    table = {}
    for draw in range(2400):
        order = tuple(Key(2).fold(draw).permutation(4).tolist())
        table[order] = table.get(order, 0) + 1
    assert len(table) == 24
    fair(list(table.values()))


def test_a_subset_is_distinct_ascending_and_within_range():
    sizes = [(k, n) for n in range(12) for k in range(n + 1)]
    sizes += [(1, 10**6), (1000, 10**6), (499_999, 10**6), (500_001, 10**6), (10**5, 10**5), (50, 101), (51, 101)]
    for k, n in sizes:
        chosen = Key(5).fold(k, n).subset(k, n)
        assert chosen.dtype == np.int64 and chosen.shape == (k,)
        assert (np.diff(chosen) > 0).all()
        assert k == 0 or (chosen[0] >= 0 and chosen[-1] < n)


def test_a_subset_that_cannot_be_is_refused():
    for k, n in [(-1, 5), (6, 5), (0, -1)]:
        with pytest.raises(LocalError, match="0 <= k <= n"):
            Key(0).subset(k, n)


@pytest.mark.parametrize("bound", [1, 2, 3, 2**32, 3 * 2**60, 2**62 - 1])
def test_below_stays_below(bound):
    drawn = Key(9).below(bound, 1000)
    assert drawn.shape == (1000,) and drawn.dtype == np.int64
    assert drawn.min() >= 0 and drawn.max() < bound
    assert Key(9).below(bound, 0).shape == (0,)


def test_below_rejects_words_past_the_last_whole_multiple():
    bound = (
        3 * 2**60
    )  # a quarter of all words have no place: by a plain modulo the lower quarter would be twice as likely
    fair(np.bincount(Key(10).below(bound, 30_000) // 2**58, minlength=12))


@pytest.mark.parametrize("bound", [0, -1, 2**62])
def test_below_refuses_a_bound_it_cannot_keep(bound):
    with pytest.raises(LocalError, match="bound"):
        Key(0).below(bound, 1)


def test_a_permutation_holds_each_index_once():
    for n in [0, 1, 2, 1000]:
        assert sorted(Key(4).permutation(n).tolist()) == list(range(n))


def every_draw(key):
    draws = (key.bits(9), key.signs(9), key.uniform(9), key.below(9, 9), key.subset(3, 9), key.permutation(9))
    return [*(x.tolist() for x in draws), key.word(), torch.rand(3, generator=key.generator()).tolist()]


def test_global_generators_are_neither_read_nor_moved():
    first = every_draw(FOLDED)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        states = random.getstate(), str(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
        assert every_draw(FOLDED) == first
        assert random.getstate() == states[0]
        assert str(np.random.get_state()) == states[1]  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), states[2])
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


def test_a_generator_is_seeded_by_the_key_alone():
    one, other = Key(0).fold("a").generator(), Key(0).fold("b").generator()
    assert one.initial_seed() == Key(0).fold("a").word() & (2**63 - 1) != other.initial_seed()
