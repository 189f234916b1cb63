"""A decoder written from docs/wire-format.md alone gives the library's values, bit for bit."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from every_codec import CODECS, COMMON, deliver, ends, stream, vector
from fewbits import coders
from fewbits.codecs import Basis, FetchSGD, ModularEncoding, Sketch, Subspace
from fewbits.codecs.transforms.bases import KINDS, SCALES
from fewbits.coders import Auto, Elias, Fixed, Golomb, Rans, Zstd
from fewbits.errors import LocalError
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.testing.values import hard_vectors
from fewbits.wire import BitWriter
from fewbits.wire.identity import canonical
from second_decoder import bases, fetch, modular
from second_decoder import coders as second
from second_decoder.bits import Bits
from second_decoder.frames import Header, Reader
from second_decoder.keys import Name
from second_decoder.linear import Table
from second_decoder.supports import support
from second_decoder.text import identity, parse

KEYS = [Key(0), Key(-3).fold("labels", 5), Key(2**70).fold("\u00fcmlaut", -1, "x")]
LENGTHS = [0, 1, 2, 3, 7, 31, 63, 64, 65, 130, 1000]


def named(key):
    return Name.of(key.text())


def same(ours, theirs):
    """Whether two arrays agree bit for bit."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    return ours.dtype == theirs.dtype and ours.tobytes() == theirs.tobytes()


def described(spec):
    entries = spec.entries if hasattr(spec, "entries") else (("tensor", spec),)
    return [(name, leaf.numel, leaf.dtype) for name, leaf in entries]


def values(x):
    """The tensors of a value, flat; half types as float32, which holds them."""
    tensors = x.values() if isinstance(x, dict) else [x]
    flats = [tensor.reshape(-1) for tensor in tensors]
    return [(x if x.dtype in (torch.float32, torch.float64) else x.float()).numpy() for x in flats]


def agree(codec, xs):
    """Send the values over a link of the library's; both readers must give the same ones."""
    spec = Spec.of(xs[0])
    sender, receiver = ends(codec, spec)
    text = canonical(sender.codec)
    reader, first = Reader(text, described(spec), named(COMMON)), identity(text, canonical(spec))
    for x in xs:
        try:
            frame, value = deliver(sender, receiver, x)
        except LocalError:
            continue  # the value leaves a range of this codec, and no frame was made
        header = Header(frame)
        assert header.codec == first[0] and (header.sequence or header.history == first[1])
        assert all(map(same, reader.receive(frame), values(value)))
        adopted = Reader(text, described(spec), named(COMMON))
        adopted.adopt(receiver.dump())
        reader = adopted


@pytest.mark.parametrize("key", KEYS, ids=str)
@pytest.mark.parametrize("n", LENGTHS)
def test_draws(key, n):
    name = named(key)
    assert (name.digest(16), name.word()) == (key.digest(16), key.word())
    assert name.bits(n) == key.bits(n).tolist()
    assert same(name.signs(n), key.signs(n))
    assert same(name.uniform(n), key.uniform(n))
    assert same(name.normal(n), key.normal(n))
    assert name.permutation(n) == key.permutation(n).tolist()
    for bound in (1, 10, 2**61 + 1):
        assert name.below(bound, n) == key.below(bound, n).tolist()
    for rows in (1, 3):
        assert name.shuffle(n, rows) == key.shuffle(n, rows).tolist()
    for k in {0, min(1, n), n // 3, n // 2, n - n // 5, n}:
        assert name.subset(k, n) == key.subset(k, n).tolist()


def test_the_second_decoder_shares_no_code_with_the_library():
    files = sorted(Path(bases.__file__).parent.glob("*.py"))
    found = [line for file in files for line in file.read_text().splitlines() if re.match(r"\s*(from|import) ", line)]
    assert len(files) > 10 and len(found) > 30
    assert [line for line in found if "fewbits" in line or "torch" in line] == []


def test_normal_draws_reach_the_tails():
    drawn = Name(1).normal(1 << 15)
    assert same(drawn, Key(1).normal(1 << 15)) and float(np.abs(drawn).max()) > 3.9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bases(kind, scale, dtype):
    for rows, columns in ((1, 1), (5, 2), (5, 5), (41, 8), (300, 7), (700, 1), (1500, 130), (9000, 3)):
        if kind == "gaussian" and rows > 2000:
            continue
        s = vector(Key(rows), columns).astype(dtype)
        expected = Basis(rows, columns, KEYS[1], kind, scale).expand(torch.from_numpy(s)).numpy()
        assert same(bases.expand(kind, scale, rows, columns, named(KEYS[1]), s), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_every_codec_of_every_float_type(codec, dtype):
    agree(codec, list(stream(5, dtype=dtype)))


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_every_codec_of_short_and_empty_vectors(codec):
    empty = torch.zeros(0)
    for n in (0, 1, 2, 3, 8, 17):
        x = torch.from_numpy(vector(Key(n), n))
        trees = [
            {"weight": x, "bias": x},
            {"weight": empty, "bias": x},
            {"bias": x.double(), "gain": empty, "weight": x},
        ]
        if "route" not in repr(codec):
            trees += [x, {}]
        for tree in trees:
            agree(codec, [tree] * (2 if codec.stateless else 3))


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_every_codec_of_hard_values(codec):
    for hard in hard_vectors(41).values():
        xs = [torch.from_numpy(np.array(x, np.float32)) for x in (hard, hard[::-1], np.zeros(41), hard)]
        agree(codec, [{"weight": x[5:], "bias": x[:5]} for x in xs])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", KINDS)
def test_subspaces_of_several_blocks(kind, scale):
    agree(Subspace(5, seed=None, basis=kind, scale=scale), [torch.from_numpy(vector(Key(n), 300)) for n in range(2)])


RANGES = [
    ("uint8", 0, 1),
    ("int8", -1, 1),
    ("int8", -7, 7),
    ("int8", -9, -2),
    ("uint8", 3, 12),
    ("int8", -127, 127),
    ("int16", -2047, 2047),
    ("int32", 0, 2**20 - 1),
    ("int64", 0, 2**40 - 1),
    ("int8", 4, 4),
]


def levels(n, low, high, seed=0):
    """Levels that crowd in the middle."""
    draws = np.random.default_rng(seed).laplace(0.5, 0.06, n)
    return np.clip(np.rint(low + draws * (high - low)), low, high)


@pytest.mark.parametrize("coder", [Fixed(), Rans(), Zstd(), Auto(), *Elias.examples(), *Golomb.examples()], ids=repr)
def test_coders_of_levels(coder):
    for dtype, low, high in RANGES:
        for n in (0, 1, 2, 9, 300, 5000):
            spec = Spec((n,), dtype, low, high)
            values = levels(n, low, high).astype(dtype)
            try:
                bits = written(coder, values, spec)
            except LocalError:
                assert high > 2**16 and type(coder) in (Elias, Golomb)
                continue
            assert second.integers(parse(canonical(coder)), n, low, high, bits) == values.tolist()
            bits.finish()


@pytest.mark.parametrize("coder", [Fixed(), Rans(), Zstd(), Auto()], ids=repr)
def test_coders_of_words(coder):
    for size in (16, 32, 64):
        for n in (0, 1, 300):
            spec = Spec((n,), f"float{size}")
            words = vector(Key(n), n).astype(f"f{size // 8}").view(f"u{size // 8}")
            for values in (words, np.zeros_like(words)):
                bits = written(coder, values, spec)
                assert second.words(parse(canonical(coder)), n, size, bits) == values.tolist()
                bits.finish()


@pytest.mark.parametrize("n", [2**14 - 1, 2**14, 2**16])
def test_four_lanes(n):
    spec = Spec((n,), "int8", -100, 100)
    values = levels(n, -100, 100).astype(np.int8)
    assert second.integers(("rans", {}), n, -100, 100, written(Rans(), values, spec)) == values.tolist()


def written(coder, values, spec):
    """What a coder writes behind three other bits."""
    out = BitWriter()
    out.write(5, 3)
    coder.write(values, spec, out)
    bits = Bits(out.finish())
    assert bits.take(3) == 5
    return bits


def clusters(n, k, seed):
    """k places in heaps."""
    draws = np.random.default_rng(seed)
    places = (draws.choice(n, max(1, k // 12))[:, None] + draws.integers(0, 30, (1, 40))).reshape(-1)
    return np.unique(places[places < n])[:k]


def test_supports_of_every_form():
    forms = set()
    draws = np.random.default_rng(1)
    for n in (1, 2, 5, 40, 3000, 100_000):
        sets = [draws.choice(n, k, replace=False) for k in {0, 1, n // 200, n // 20, n // 2, n - n // 10, n}]
        sets += [clusters(n, k, seed) for k in (60, 500, 4000) for seed in range(4)]
        for places in sets:
            places = np.sort(places).astype(np.int64)
            out = BitWriter()
            coders.write_support(places, n, out)
            bits = Bits(out.finish())
            assert support(len(places), n, bits) == places.tolist()
            bits.finish()
            forms |= {int(bits.text[:3], 2)} if 0 < len(places) < n else set()
    assert forms == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("feedback", ["zero", "subtract"])
@pytest.mark.parametrize(("n", "rows", "columns"), [(200, 5, 16), (200, 4, 9), (40, 5, 16)])
def test_rounds_of_fetchsgd(feedback, n, rows, columns):
    key, rule = Key(7).fold("count_sketch"), FetchSGD(6, 0.9, 0.7, feedback)
    sketch, table = Sketch(n, rows, columns, key), Table(n, rows, columns, named(key))
    (u, e), (u2, e2) = rule.init(sketch), [np.zeros(table.numbers, np.float32)] * 2
    for round in range(4):
        x = vector(Key(round), n)
        mean = sketch.of(torch.from_numpy(x))
        assert same(table.of(x), mean.numpy())
        step = rule.step(sketch, mean, u, e)
        support, found, u2, e2 = fetch.step(table, mean.numpy(), u2, e2, 6, 0.9, 0.7, feedback)
        u, e = step.momentum, step.error
        assert support == step.support.tolist()
        assert same(found, step.values.numpy()) and same(u2, u.numpy()) and same(e2, e.numpy())


@pytest.mark.parametrize("bits", [8, 32, 40])
def test_modular_sums_and_masks(bits):
    encoding = ModularEncoding(bits, clip=0.7, clients=3)
    keys = {2: Key(5), 7: Key(6)}
    words = [encoding.encode(torch.from_numpy(vector(Key(i), 20)), Key(i)) for i in range(3)]
    total = encoding.add(encoding.add(words[0], words[1]), words[2])
    assert same(modular.total(total.tolist(), bits, 0.7, 3, 3), encoding.decode(total, 3).numpy())
    later, earlier = (modular.stream(20, bits, named(keys[i])) for i in (7, 2))
    expected = [(a - b) % 2**bits for a, b in zip(later, earlier, strict=True)]
    assert encoding.mask(20, 4, keys).tolist() == expected
    out = BitWriter()
    encoding.write(total, out)
    assert second.integers(("fixed", {}), 20, 0, 2**bits - 1, Bits(out.finish())) == total.tolist()
