"""Bounds that our own codecs keep, sharper than what contracts promise."""

import math

import numpy as np
import pytest
import torch

from every_codec import CODECS, COMMON, PRIVATE, each_codec, ends, vector
from fewbits.codecs import Chain, Keys, Quantize, RandK, chain
from fewbits.coders import Auto, Golomb, Rans, Zstd
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.testing.case import Case
from fewbits.testing.promise_laws import DRAWS, UNLIKELY, draws

SPEC = Spec((41,))


QUANTISERS = [Quantize(2), Quantize(4), Quantize(4, norm="l2"), Quantize(4, bucket=8), Quantize(8), Quantize(12)]


@pytest.mark.parametrize("quantiser", QUANTISERS, ids=repr)
def test_every_entry_of_a_quantised_vector_is_right_on_average_by_the_declared_step(quantiser):
    x = torch.from_numpy(vector(Key(3), 41))
    offsets = quantiser.stretches.offsets(SPEC)
    scales, _ = quantiser.split(x, SPEC, Keys(PRIVATE, COMMON))
    steps = torch.repeat_interleave(scales, torch.from_numpy(np.diff(offsets))).double() / quantiser.s
    found = draws(Case(chain(quantiser), SPEC), x)
    assert bool(((found - x).abs() < steps * (1 + 1e-5)).all())  # never further than the next level
    miss = (found.mean(0) - x.double()).abs()
    assert bool((miss <= steps * (math.sqrt(math.log(2 * 41 / UNLIKELY) / (2 * DRAWS)) + 2.0**-16)).all())


def test_every_entry_of_an_unbiased_random_support_is_right_on_average():
    x = torch.from_numpy(vector(Key(3), 41))
    found = draws(Case(chain(RandK(0.25, mode="unbiased")), SPEC), x)
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


@each_codec
def test_carriers_of_a_linear_codec_are_shorter_than_the_vector(codec):
    if codec.lift or not codec.contract(SPEC).linear:
        return
    assert isinstance(codec, Chain)
    x = torch.from_numpy(vector(Key(0), 41))
    message = codec.encode(x, SPEC, (), (), Keys(PRIVATE, COMMON))[0]
    all_travel = {"Rotate", "DCT"} >= {type(step).__name__ for step in codec.linear_prefix}
    assert len(codec.partial(message, SPEC, ())[0].values) < 41 or all_travel or "1.0" in repr(codec)
