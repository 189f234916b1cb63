"""What contracts promise, and sums: laws of every codec, with bounds that come from the promise, not the sample."""

import math

import numpy as np
import pytest
import torch

from every_codec import CODECS, COMMON, PRIVATE, TREE, ends, fingerprint, law, payload_of, run, stream, vector
from fewbits.codecs import Chain, Codec, ErrorFeedback, Keys, Quantize, RandK, TreeTotal, as_lift, chain
from fewbits.coders import Auto, Golomb, Rans, Zstd
from fewbits.errors import LocalError
from fewbits.links.finite import named
from fewbits.rng import Key
from fewbits.spec import Spec

DRAWS = 400
UNLIKELY = 1e-6  # chance that a law which holds would fail, were the keys not fixed
SPEC = Spec((41,))


def flattened(value):
    return torch.cat([x.reshape(-1).double() for _, x in named(value)])


def draws(codec: Codec, x: torch.Tensor, keys: int = DRAWS) -> torch.Tensor:
    """C(x) under so many pairs of keys.  # (keys, numel) float64"""
    found = []
    for k in range(keys):
        pair = Keys(PRIVATE.fold(k), COMMON.fold(k))
        message, _ = codec.encode(x, SPEC, codec.init(SPEC), codec.memory(SPEC), pair)
        found.append(codec.decode(message, SPEC, codec.init(SPEC))[0].double())
    return torch.stack(found)


@law
def test_the_payload_is_as_long_as_promised(codec):
    lift = as_lift(codec, "test")
    for spec, xs in ((TREE, stream(3)), (Spec((17,)), [torch.ones(17), torch.zeros(17)])):
        if "route" in repr(codec) and spec is not TREE:
            continue
        bits = lift.contract(spec).payload_bits
        for frame in run(codec, list(xs), spec)[0]:
            assert bits is None or len(payload_of(frame)) == -(-bits // 8)


@law
def test_what_promises_to_lose_nothing_loses_nothing(codec):
    if not as_lift(codec, "test").contract(TREE).lossless:
        return
    xs = [*stream(3), {name: -torch.zeros_like(x) for name, x in next(stream(1)).items()}]
    for x, value in zip(xs, run(codec, xs)[1], strict=True):
        assert fingerprint(value) == fingerprint(x)


def hoeffding(ranges2: float, keys: int) -> float:
    """How far the mean over keys may stray, for a sum of independent terms whose squared ranges sum to `ranges2`."""
    return math.sqrt(math.log(2 / UNLIKELY) * ranges2 / (2 * keys))


@law
def test_a_contraction_leaves_on_average_at_most_what_it_promises(codec):
    delta = codec.contract(SPEC).delta if not codec.lift else None
    if delta is None:
        return
    assert 0 < delta <= 1
    for seed in range(3):
        x = torch.from_numpy(vector(Key(seed), 41))
        norm2 = float(x.double().square().sum())
        losses = (draws(codec, x, DRAWS if seed == 0 else 40) - x.double()).square().sum(1)
        spread = 0.0 if float(losses.max()) == float(losses.min()) else hoeffding(norm2**2, len(losses))
        assert float(losses.mean()) <= (1 - delta) * norm2 + spread + 1e-6 * norm2


@law
def test_an_unbiased_codec_is_right_on_average_and_varies_no_more_than_it_promises(codec):
    omega = codec.contract(SPEC).omega if not codec.lift else None
    if omega is None:
        return
    x = torch.from_numpy(vector(Key(3), 41)).double()
    norm2 = float(x.square().sum())
    found = draws(codec, x.float())
    losses = (found - x).square().sum(1)
    spread = 0.0 if float(losses.max()) == float(losses.min()) else hoeffding(norm2**2 * max(1.0, omega) ** 2, DRAWS)
    assert float(losses.mean()) <= omega * norm2 + spread + 1e-6 * norm2
    miss2 = float((found.mean(0) - x).square().sum())  # E of this is at most omega*|x|^2/DRAWS; Markov
    assert miss2 <= omega * norm2 / DRAWS * 1e3 + 1e-10 * norm2


QUANTISERS = [Quantize(2), Quantize(4), Quantize(4, norm="l2"), Quantize(4, bucket=8), Quantize(8), Quantize(12)]


@pytest.mark.parametrize("quantiser", QUANTISERS, ids=repr)
def test_every_entry_of_a_quantised_vector_is_right_on_average_by_the_declared_step(quantiser):
    x = torch.from_numpy(vector(Key(3), 41))
    offsets = quantiser.stretches.offsets(SPEC)
    scales, _ = quantiser.split(x, SPEC, Keys(PRIVATE, COMMON))
    steps = torch.repeat_interleave(scales, torch.from_numpy(np.diff(offsets))).double() / quantiser.s
    found = draws(chain(quantiser), x)
    assert bool(((found - x).abs() < steps * (1 + 1e-5)).all())  # never further than the next level
    miss = (found.mean(0) - x.double()).abs()
    assert bool((miss <= steps * (math.sqrt(math.log(2 * 41 / UNLIKELY) / (2 * DRAWS)) + 2.0**-16)).all())


def test_every_entry_of_an_unbiased_random_support_is_right_on_average():
    x = torch.from_numpy(vector(Key(3), 41))
    found = draws(chain(RandK(0.25, mode="unbiased")), x)
    reach = x.double().abs() * 41 / 11
    bound = reach * math.sqrt(math.log(2 * 41 / UNLIKELY) / (2 * DRAWS))
    assert bool(((found.mean(0) - x.double()).abs() <= bound).all())


STACKS = [
    codec for codec in CODECS if isinstance(codec, Chain) and isinstance(codec.coder, Rans | Golomb | Auto | Zstd)
]


@pytest.mark.parametrize("codec", STACKS, ids=repr)
def test_entropy_coders_come_within_two_percent_of_the_entropy_of_the_levels(codec):
    n = 300_000
    x = torch.from_numpy(vector(Key(11), n))
    sender, _ = ends(codec, Spec.of(x))
    sender.send(x)
    levels = sender.message[0].carrier
    shares = torch.bincount(levels.long() - int(levels.min())).double() / len(levels)
    entropy = float(-(shares[shares > 0] * shares[shares > 0].log2()).sum()) * len(levels)
    section = next(s for s in sender.sections if s.name.endswith(type(codec.coder).__name__))
    assert section.stop - section.start <= 1.02 * entropy + 64


FED_BACK = [codec for codec in CODECS if isinstance(codec, Chain)]


@pytest.mark.parametrize("inner", FED_BACK, ids=repr)
def test_error_feedback_loses_nothing_for_good(inner):
    """What is kept and what is sent sum to what came in."""
    try:
        codec = ErrorFeedback(inner)
    except LocalError:
        assert "unbiased" in repr(inner) or "Modular" in repr(inner)  # the only ones that may not be fed back
        return
    state, memory = codec.init(SPEC), codec.memory(SPEC)
    for t in range(10):
        x, before = torch.from_numpy(vector(Key(t), 41)), memory[0].clone()
        message, memory = codec.encode(x, SPEC, state, memory, Keys(PRIVATE.fold(t), COMMON.fold(t)))
        x_hat, state = codec.decode(message, SPEC, state)
        torch.testing.assert_close(x_hat + memory[0], x + before, rtol=1e-6, atol=1e-5)


@law
def test_frames_summed_before_they_are_expanded_give_the_sum_of_the_values(codec):
    """Four senders, some of which missed rounds; weights that differ."""
    total, expected = TreeTotal(as_lift(codec, "test"), TREE), 0.0
    for client in range(4):
        xs = list(stream(1 + client % 3, seed=client))
        frames, values, _, _ = run(codec, xs)
        _, receiver = ends(codec)
        for frame in frames[:-1]:
            receiver.receive(frame)
        total.add(receiver.receive_partial(frames[-1]), weight=0.5 + client)
        _, reference = ends(codec)
        for frame in frames:
            reference.receive(frame)
        assert receiver.dump() == reference.dump()
        expected = expected + (0.5 + client) * flattened(values[-1])
    torch.testing.assert_close(flattened(total.value()), expected, rtol=1e-5, atol=1e-5)
    assert Spec.of(total.value()) == TREE


@law
def test_a_sum_of_nothing_is_zero(codec):
    value = TreeTotal(as_lift(codec, "test"), TREE).value()
    assert Spec.of(value) == TREE
    assert not bool(flattened(value).any())


@law
def test_frames_of_a_linear_codec_add_up_unexpanded(codec):
    """decode(sum of carriers) == sum of decodes, when all senders share the common key."""
    if codec.lift or not codec.contract(SPEC).linear:
        return
    assert isinstance(codec, Chain)
    xs = [torch.from_numpy(vector(Key(t), 41)) for t in range(5)]
    messages = [codec.encode(x, SPEC, (), (), Keys(PRIVATE.fold(i), COMMON))[0] for i, x in enumerate(xs)]
    partials = [codec.partial(m, SPEC, ())[0] for m in messages]
    summed = codec.complete(sum(p.values for p in partials), partials[0].side, SPEC)
    decoded = sum(codec.decode(m, SPEC, ())[0] for m in messages)
    torch.testing.assert_close(summed, decoded, rtol=1e-5, atol=1e-5)
    assert all(len(p.values) < 41 for p in partials) or "1.0" in repr(codec)
