"""Sums modulo 2^bits: right within the bound, silent about everybody, and never wrapped."""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from fewbits import Key, LocalError, Quantize, Raw, Spec, Subspace, TopK, WireError, chain, flat
from fewbits.codecs import Keys
from fewbits.codecs.modular_encoding import ModularEncoding, linear_values
from fewbits.wire import BitReader, BitWriter

FIELDS = [
    ModularEncoding(),
    ModularEncoding(bits=32, clip=0.25, clients=3, rounding="nearest"),
    ModularEncoding(bits=16, clip=2.0, clients=100),
    ModularEncoding(bits=13, clip=1.0, clients=5, rounding="nearest"),
    ModularEncoding(bits=48, clip=1e-3, clients=10),
    ModularEncoding(bits=48, clip=1.0, clients=1),
    ModularEncoding(bits=2, clip=1.0, clients=1),
]


def vectors(count, n, size, seed=0):
    """Values over the whole range, its ends among them."""
    rows = [2 * size * (torch.from_numpy(Key(seed).fold(i).uniform(n)).double() - 0.5) for i in range(count)]
    for row in rows:
        row[0], row[1], row[2] = size, -size, 0.0
    return rows


def pair_keys(clients):
    shared = {pair: Key(99).fold("round", 4, *pair) for pair in combinations(clients, 2)}
    return {me: {o: shared[min(me, o), max(me, o)] for o in clients if o != me} for me in clients}


def masked(field, xs):
    keys = pair_keys(range(len(xs)))
    words = [field.encode(x, Key(5).fold(i)) for i, x in enumerate(xs)]
    return [field.add(w, field.mask(len(w), i, keys[i])) for i, w in enumerate(words)]


@pytest.mark.parametrize("field", FIELDS, ids=repr)
def test_a_masked_sum_is_the_sum_within_the_bound(field):
    count = min(field.clients, 6)
    xs = vectors(count, 500, field.clip)
    total = field.sum(iter(masked(field, xs)))
    assert total.dtype == torch.float64
    assert float((total - sum(xs)).abs().max()) <= field.bound(count)


@pytest.mark.parametrize("field", FIELDS, ids=repr)
def test_the_most_messages_of_the_largest_values_do_not_wrap(field):
    count = min(field.clients, 1000)
    for sign in (1.0, -1.0):
        words = field.encode(torch.full((3,), sign * field.clip), Key(0))
        total = field.sum(words for _ in range(count))
        assert torch.allclose(total, torch.full((3,), sign * count * field.clip, dtype=torch.float64), rtol=1e-12)


@pytest.mark.parametrize("field", FIELDS, ids=repr)
def test_words_are_what_a_loop_over_integers_gives(field):
    x, key = vectors(1, 40, 1.3 * field.clip)[0], Key(3)
    u = key.fold("field").uniform(40)
    for word, value, dither in zip(field.encode(x, key), x.tolist(), u, strict=True):
        scaled = value / field.step
        level = round(scaled) if field.rounding == "nearest" else np.floor(scaled + np.float64(dither))
        assert int(word) == int(min(max(level, -field.top), field.top)) % 2**field.bits


def test_a_dither_is_unbiased_and_its_error_grows_as_the_root_of_the_messages():
    field, count = ModularEncoding(bits=12, clients=400), 400
    x = torch.linspace(-0.9, 0.9, 301, dtype=torch.float64)
    total = field.sum(field.encode(x, Key(1).fold(i)) for i in range(count))
    error = (total - count * x) / field.step
    assert float(error.square().mean().sqrt()) < 0.5 * count**0.5  # the deviation of one is at most half a step
    assert abs(float(error.mean())) < 5 * 0.5 * (count / 301) ** 0.5


def uniform(words, bits, table=6):
    """The p-value of the top and the bottom bits of words being uniform."""
    low = np.bincount((words & np.uint64(2**table - 1)).astype(int), minlength=2**table)
    high = np.bincount((words >> np.uint64(bits - table)).astype(int), minlength=2**table)
    return min(chisquare(low).pvalue, chisquare(high).pvalue)


@pytest.mark.parametrize("bits", [20, 32, 40])
def test_the_sum_of_any_strict_subset_of_messages_is_uniform(bits):
    field = ModularEncoding(bits=bits, clients=4)
    messages = masked(field, [torch.full((20_000,), 0.1 * (i + 1)) for i in range(4)])
    for size in (1, 2, 3):
        for subset in combinations(messages, size):
            total = subset[0]
            for words in subset[1:]:
                total = field.add(total, words)
            assert uniform(total, bits) > 1e-4
    everybody = field.add(field.add(messages[0], messages[1]), field.add(messages[2], messages[3]))
    assert uniform(everybody, bits) < 1e-300  # the test can tell


def test_messages_of_a_strict_subset_are_uniform_together():
    field = ModularEncoding(bits=24, clients=3)
    messages = masked(field, [torch.full((60_000,), 0.1 * (i + 1)) for i in range(3)])
    for a, b in combinations(messages, 2):
        for shift in (0, 20):
            joint = (a >> np.uint64(shift)) % np.uint64(16) * np.uint64(16) + (b >> np.uint64(shift)) % np.uint64(16)
            assert chisquare(np.bincount(joint.astype(int), minlength=256)).pvalue > 1e-4


def test_the_subset_cannot_be_told_from_one_that_sends_other_values():
    field, keys = ModularEncoding(bits=16, clients=2), pair_keys(range(2))
    mask = field.mask(50_000, 0, keys[0])
    for value in (0.0, 0.7):
        assert uniform(field.add(field.encode(torch.full((50_000,), value), Key(1)), mask), 16) > 1e-4


@pytest.mark.parametrize("clients", [2, 3, 7])
def test_masks_of_all_clients_cancel(clients):
    field, numbers = ModularEncoding(bits=31), [10 * i + 3 for i in range(clients)]
    keys, total = pair_keys(numbers), np.zeros(100, np.uint64)
    for me in reversed(numbers):
        total = field.add(total, field.mask(100, me, keys[me]))
    assert not total.any()


def test_a_mask_that_did_not_cancel_is_found():
    field = ModularEncoding(clients=100)
    messages = masked(field, vectors(4, 200, 1.0))
    with pytest.raises(WireError, match="masks did not cancel"):
        field.sum(messages[:3])
    with pytest.raises(WireError, match="twice"):
        field.sum([*messages, messages[0]])


@pytest.mark.parametrize("field", FIELDS, ids=repr)
def test_words_take_their_bits_on_the_wire_and_come_back(field):
    words = masked(field, vectors(1, 37, field.clip))[0]
    out = BitWriter()
    field.write(words, out)
    assert out.bits == 37 * field.bits
    payload = out.finish()
    assert len(payload) == -(-37 * field.bits // 8)
    src = BitReader(payload)
    back = field.read(37, src)
    src.finish()
    assert back.dtype == np.uint64 and np.array_equal(back, words)
    assert np.array_equal(field.add(back, back), field.add(words, words))


def test_a_short_payload_is_refused_before_anything_is_made_of_it():
    with pytest.raises(WireError, match="ends too early"):
        ModularEncoding().read(10**12, BitReader(bytes(100)))


def sent(codec, x, sender):
    spec = Spec.of(x)
    keys = Keys(Key(7).fold("client", sender), Key(0).fold("round", 3))
    message, _ = codec.encode(x, spec, codec.init(spec), codec.memory(spec), keys)
    return linear_values(codec, message, spec)


@pytest.mark.parametrize(
    "codec",
    [chain(Subspace(16)), chain(Subspace(16, seed=None, basis="hadamard")), chain(Raw()), chain(Quantize(bits=8))],
    ids=repr,
)
def test_the_sum_of_a_codecs_words_expands_to_the_sum_of_what_would_be_decoded(codec):
    xs = [row.float() for row in vectors(5, 200, 0.1)]
    field, spec = ModularEncoding(clip=4.0, clients=5), Spec.of(xs[0])
    parts = [sent(codec, x, i) for i, x in enumerate(xs)]
    total = field.sum(masked(field, [p.values for p in parts])).float()
    side = sent(codec, torch.zeros(200), 0).side  # the server works it out from the common key
    plain = sum(codec.complete(p.values, p.side, spec) for p in parts)
    assert torch.allclose(codec.complete(total, side, spec), plain, atol=1e-5)


def test_messages_with_supports_of_their_own_are_no_summands():
    with pytest.raises(LocalError, match="supports of their own"):
        sent(chain(TopK(0.1)), torch.arange(20.0), 0)
    with pytest.raises(LocalError, match="is a lift"):
        linear_values(flat(Raw()), (), Spec((3,)))


def test_what_could_overflow_is_refused_in_a_sentence():
    with pytest.raises(LocalError, match=r"8 bits are too few for a sum of 1000 messages.*take 11 bits"):
        ModularEncoding(bits=8)
    assert ModularEncoding(bits=11).top == 1
    field = ModularEncoding(clients=2, beyond="refuse")
    with pytest.raises(LocalError, match=r"within \+-1.*cannot overflow 32 bits; got one of size 1.5"):
        field.encode(torch.tensor([0.0, -1.5]), Key(0))
    words = field.encode(torch.ones(2), Key(0))
    with pytest.raises(LocalError, match="more than 2 messages"):
        field.sum([words] * 3)
    with pytest.raises(LocalError, match=r"holds 1\.\.2"):
        field.decode(words, 3)


def test_values_beyond_the_clip_are_set_to_it():
    field = ModularEncoding(clients=2)
    assert field.decode(field.encode(torch.tensor([9.0, -9.0, 0.5]), Key(0)), 1)[:2].tolist() == [1.0, -1.0]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(wrong):
    with pytest.raises(LocalError, match="1 of 2 values are not finite"):
        ModularEncoding().encode(torch.tensor([0.0, wrong]), Key(0))


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 1},
        {"bits": 49},
        {"bits": True},
        {"clients": 0},
        {"clip": 0.0},
        {"clip": float("nan")},
        {"rounding": "up"},
        {"beyond": "wrap"},
    ],
    ids=str,
)
def test_a_field_says_what_is_wrong_with_it(options):
    with pytest.raises(LocalError, match=f"ModularEncoding: {next(iter(options))} must be"):
        ModularEncoding(**options)


def test_mistakes_with_words_are_sentences():
    field = ModularEncoding()
    with pytest.raises(LocalError, match="own Key"):
        field.encode(torch.zeros(2))
    with pytest.raises(LocalError, match="one length; got 2 and 3"):
        field.add(np.zeros(2, np.uint64), np.zeros(3, np.uint64))
    with pytest.raises(LocalError, match="words of 32 bits"):
        field.decode(np.full(2, 2**32, np.uint64), 1)
    with pytest.raises(LocalError, match="got int64"):
        field.decode(np.zeros(2, np.int64), 1)
    with pytest.raises(LocalError, match="got none"):
        field.sum([])
    with pytest.raises(LocalError, match="no key with itself"):
        field.mask(3, 1, {1: Key(0)})


def test_words_and_masks_are_the_same_for_ever():
    field = ModularEncoding(bits=20, clients=10)
    words = field.encode(torch.tensor([0.5, -0.25, 1.0]), Key(1))
    assert words.tolist() == [26214, 1035469, 52428]
    assert field.mask(3, 0, {1: Key(2), 2: Key(3)}).tolist() == [691368, 783778, 205490]
