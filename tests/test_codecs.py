"""Each transform against a dumb statement of the same thing, and the arguments it refuses."""

import numpy as np
import pytest
import torch

from every_codec import TREE, ends, payload_of, run, stream, vector
from fewbits.codecs import Keys, Quantize, RandK, Raw, Sign, Threshold, TopK, chain
from fewbits.coders import Fixed, Golomb, Rans
from fewbits.errors import LocalError
from fewbits.rng import Key
from fewbits.spec import Spec

KEYS = Keys(Key(1), Key(2))


def coded(codec, x, keys=KEYS, spec=None):
    """C(x) without a wire."""
    codec, spec = chain(codec), spec or Spec.of(x)
    message, _ = codec.encode(x, spec, (), (), keys)
    return codec.decode(message, spec, ())[0]


TIED = [
    np.zeros(20),
    np.full(20, -0.5),
    np.tile([1.0, -1.0, 0.0], 7),
    np.concatenate([np.zeros(50), [3.0], np.zeros(50), [-3.0, 2.0]]),
    vector(Key(1), 3000),
    np.round(vector(Key(2), 3000)),
    vector(Key(3), 500) * 1e-42,
]


@pytest.mark.parametrize("x", TIED, ids=range(len(TIED)))
@pytest.mark.parametrize("fraction", [0.001, 0.07, 0.5, 1.0])
def test_topk_keeps_the_first_k_of_a_full_stable_sort(x, fraction):
    x = x.astype(np.float32)
    k = min(len(x), int(np.ceil(round(fraction * len(x), 6))))
    order = np.argsort(-np.abs(x), kind="stable")[:k]
    expected = np.zeros_like(x)
    expected[order] = x[order]
    assert np.array_equal(coded(TopK(fraction), torch.from_numpy(x)).numpy(), expected)


def test_topk_counts_seven_percent_of_a_hundred_as_seven():
    assert TopK(0.07).most(Spec((100,))) == 7
    assert TopK(0.07).most(Spec((101,))) == 8
    assert TopK(1e-9).most(Spec((5,))) == 1


@pytest.mark.parametrize("tau", [0.0, 0.4, 2.0, 100.0])
def test_threshold_keeps_what_is_at_or_above_it(tau):
    x = np.append(vector(Key(1), 500), [0.4, -0.4, 0.0, -0.0]).astype(np.float32)
    expected = np.where(np.abs(x) >= np.float32(tau), x, 0)
    assert np.array_equal(coded(Threshold(tau), torch.from_numpy(x)).numpy(), expected)


def test_float64_selection_keeps_float64_values():
    x = torch.tensor([1e300, -1e-300, 2.0, 1e299], dtype=torch.float64)
    assert coded(TopK(0.5), x).tolist() == [1e300, 0.0, 0.0, 1e299]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("bits", [2, 4, 8, 12])
def test_quantised_levels_are_one_of_the_two_beside_the_exact_ratio(norm, bits):
    x = vector(Key(1), 2000)
    quantiser = Quantize(bits, norm=norm)
    scales, levels = quantiser.split(torch.from_numpy(x), Spec((2000,)), KEYS)
    scale = np.abs(x).max() if norm == "linf" else np.sqrt((x.astype(np.float64) ** 2).sum())
    assert scales.tolist() == pytest.approx([float(scale)], rel=1e-6)
    ratio = quantiser.s * np.abs(x.astype(np.float64)) / float(scales[0])
    found = levels.numpy().astype(np.int64) * np.where(np.signbit(x), -1, 1)
    assert np.all((found >= np.floor(ratio - 1e-4)) & (found <= np.ceil(ratio + 1e-4)))
    expected = levels.numpy().astype(np.float32) * np.float32(float(scales[0]) / quantiser.s)
    assert np.array_equal(coded(quantiser, torch.from_numpy(x)).numpy(), expected)


def test_contractive_quantisation_is_the_unbiased_one_times_a_constant():
    x = torch.from_numpy(vector(Key(1), 300))
    plain, shrunk = Quantize(4), Quantize(4, mode="contractive")
    c = 1 / (1 + plain.omega(Spec.of(x)))
    torch.testing.assert_close(coded(shrunk, x), coded(plain, x) * c)


def test_malcoms_constant_is_the_papers():
    spec = Spec((10_000,))
    quantiser = Quantize(5, norm="l2", mode="contractive")
    assert quantiser.factor(spec) == pytest.approx(1 / (1 + min(10_000 / 15**2, np.sqrt(10_000) / 15)))


@pytest.mark.parametrize("transform", [Quantize(4, bucket="tensor"), Sign(bucket="tensor")])
def test_one_scale_per_tensor_equals_each_tensor_by_itself(transform):
    x = torch.from_numpy(vector(Key(1), 30) * np.repeat([1, 100, 0.01], 10).astype(np.float32))
    spec = Spec((30,), segments=(10, 10, 10))
    scales, _ = transform.split(x, spec, KEYS)
    assert len(scales) == 3
    for i, piece in enumerate(x.split(10)):
        alone, _ = transform.split(piece, Spec((10,)), KEYS)
        assert alone.tolist() == [float(scales[i])]


def test_bucket_scales_are_16_bits_and_never_below_the_largest_value():
    x = torch.from_numpy(vector(Key(1), 100))
    scales, _ = Quantize(4, bucket=8).split(x, Spec((100,)), KEYS)
    assert len(scales) == 13
    for scale, bucket in zip(scales, x.split(8), strict=True):
        assert float(bucket.abs().max()) <= float(scale) <= float(bucket.abs().max()) * (1 + 2**-7)
    assert Quantize(4, bucket=8).stretches.bits(Spec((100,))) == 13 * 16


def test_sign_is_the_mean_magnitude_times_the_sign():
    x = np.append(vector(Key(1), 99), [0.0, -0.0]).astype(np.float32)
    scale = np.float32(np.abs(x.astype(np.float64)).mean())
    assert np.array_equal(coded(Sign(), torch.from_numpy(x)).numpy(), np.where(x < 0, -scale, scale))


def test_a_random_support_is_not_on_the_wire_and_both_ends_draw_the_same():
    x = torch.from_numpy(vector(Key(1), 1000))
    codec = chain(RandK(0.05), Quantize(8))
    frame = ends(codec, Spec.of(x))[0].send(x)
    assert len(payload_of(frame)) == 4 + 50  # a scale and 50 levels of 8 bits
    first, second = run(codec, [x, x], Spec.of(x))[1]
    assert not torch.equal(first != 0, second != 0)  # a new support in every round


def test_a_random_support_depends_on_the_common_key_alone():
    x, spec = torch.ones(100), Spec((100,))
    support, _ = RandK(0.1).split(x, spec, Keys(Key(5), Key(2)))
    assert torch.equal(support, RandK(0.1).split(-x, spec, KEYS)[0])
    assert not torch.equal(support, RandK(0.1).split(x, spec, Keys(Key(1), Key(3)))[0])


def test_unbiased_random_support_multiplies_by_n_over_k():
    x = torch.ones(100)
    assert sorted(coded(RandK(0.1, mode="unbiased"), x).unique().tolist()) == [0.0, 10.0]
    assert sorted(coded(RandK(0.1), x).unique().tolist()) == [0.0, 1.0]


@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_raw_rounds_as_torch_does(name, dtype):
    x = torch.from_numpy(vector(Key(1), 100))
    assert torch.equal(coded(Raw(name), x), x.to(dtype).to(torch.float32))
    assert len(payload_of(ends(Raw(name), Spec.of(x))[0].send(x))) == 200


def test_a_value_beyond_fp16_is_refused_and_never_sent_as_infinity():
    sender, _ = ends(Raw("fp16"), Spec((2,)))
    with pytest.raises(LocalError, match="does not fit fp16"):
        sender.send(torch.tensor([1.0, 7e4]))


def test_levels_of_a_float64_beyond_float32_are_refused():
    sender, _ = ends(Quantize(4), Spec((2,), "float64"))
    with pytest.raises(LocalError, match="beyond float32"):
        sender.send(torch.tensor([1e300, 1.0], dtype=torch.float64))


def test_sections_name_what_every_bit_was_for():
    codec = chain(TopK(0.2), Quantize(bits=4), Rans())
    sender, _ = ends(codec)
    sender.send(next(stream(1)))
    assert [s.name for s in sender.sections] == ["flat/TopK", "flat/Quantize", "flat/Rans", "flat"]
    assert sender.sections[-1].start == 0
    assert all(a.stop == b.start for a, b in zip(sender.sections[:2], sender.sections[1:3], strict=True))


BAD = [
    (lambda: TopK(0), "fraction"),
    (lambda: TopK(1.5), "fraction"),
    (lambda: TopK(True), "fraction"),
    (lambda: TopK(float("nan")), "fraction"),
    (lambda: RandK(-0.1), "fraction"),
    (lambda: RandK(0.1, mode="mean"), "contractive, unbiased"),
    (lambda: Threshold(-1), "tau"),
    (lambda: Threshold(float("inf")), "tau"),
    (lambda: Quantize(1), "Sign"),
    (lambda: Quantize(17), "2..16"),
    (lambda: Quantize(4.0), "2..16"),
    (lambda: Quantize(4, norm="l1"), "linf, l2"),
    (lambda: Quantize(4, mode="biased"), "unbiased, contractive"),
    (lambda: Quantize(4, bucket=0), "bucket"),
    (lambda: Quantize(4, bucket="row"), "bucket"),
    (lambda: Sign(bucket=True), "bucket"),
    (lambda: Raw("int8"), "fp16, bf16"),
    (lambda: chain(Quantize(4), TopK(0.1)), "put it before"),
    (lambda: chain(Sign(), Raw("fp16")), "put it before"),
    (lambda: chain(TopK(0.1), Golomb()), "put Quantize or Sign before it"),
    (lambda: chain(Golomb()), "put Quantize or Sign before it"),
    (lambda: chain(Rans(), TopK(0.1)), "must come last"),
    (lambda: chain(Fixed(), Rans()), "must come last"),
    (lambda: chain(chain(Raw())), "whole codec"),
    (lambda: chain("topk"), "must be a transform or a coder"),
    (lambda: chain(TopK), "must be a transform or a coder"),
]


@pytest.mark.parametrize(("build", "says"), BAD, ids=[says for _, says in BAD])
def test_what_cannot_work_is_refused_when_it_is_built(build, says):
    with pytest.raises(LocalError, match=says):
        build()


def test_an_empty_chain_is_raw():
    x = next(stream(1))
    assert run(chain(), [x], TREE)[0][0][16:] == run(chain(Raw()), [x], TREE)[0][0][16:]
