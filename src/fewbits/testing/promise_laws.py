"""Laws of contracts: what a codec promises holds, within bounds that come from the promise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fewbits.codecs import Chain, ErrorFeedback, Keys, as_lift
from fewbits.errors import LocalError
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.testing.case import Case, codec_law
from fewbits.testing.ends import COMMON, PRIVATE, fingerprint, payload_of, run
from fewbits.testing.law import close, demand
from fewbits.testing.values import hard_vectors

DRAWS = 400
UNLIKELY = 1e-6  # chance that a law which holds would fail, were the keys not fixed
EXTREMES = ("constant", "ties", "mostly zero")


def draws(case: Case, x: Tensor, keys: int = DRAWS) -> Tensor:
    """C(x) under so many pairs of keys.  # (keys, numel) float64"""
    found, codec, spec = [], case.codec, case.flat
    for k in range(keys):
        pair = Keys(PRIVATE.fold(k), COMMON.fold(k))
        message, _ = codec.encode(x, spec, codec.init(spec), codec.memory(spec), pair)
        found.append(codec.decode(message, spec, codec.init(spec))[0].double())
    return torch.stack(found)


@codec_law
def the_payload_is_as_long_as_promised(case: Case) -> None:
    """Every payload has the bits that `contract` promises, rounded up to whole bytes."""
    lift, vector = as_lift(case.codec, "testing"), Spec((17,))
    tried = [(case.spec, list(case.stream(3)))]
    if not case.only and case.takes(vector):
        tried.append((vector, [torch.ones(17), torch.zeros(17)]))
    for spec, xs in tried:
        bits = lift.contract(spec).payload_bits
        for x, frame in zip(xs, run(case.codec, xs, spec)[0], strict=True):
            size = len(payload_of(frame))
            demand(
                bits is None or size == -(-bits // 8),
                "The payload is not as long as promised",
                input=x,
                promised_bits=bits,
                bytes=size,
            )


@codec_law
def what_promises_to_lose_nothing_loses_nothing(case: Case) -> None:
    """A codec that promises `lossless` gives back every bit, the sign of zero included."""
    if not as_lift(case.codec, "testing").contract(case.spec).lossless:
        return
    zero = case.first()
    zero = {name: -torch.zeros_like(x) for name, x in zero.items()} if isinstance(zero, dict) else -(zero * 0)
    xs = [*case.stream(3), zero]
    for x, value in zip(xs, case.run(xs)[1], strict=True):
        demand(fingerprint(value) == fingerprint(x), "The value is another one", sent=x, arrived=value)


def hoeffding(ranges2: float, keys: int) -> float:
    """How far the mean over keys may stray, for a sum of independent terms whose squared ranges sum to `ranges2`."""
    return math.sqrt(math.log(2 / UNLIKELY) * ranges2 / (2 * keys))


def bernstein(variance: float, reach: float, keys: int) -> float:
    """How far the mean of vectors may stray that lie within `reach` of their centre (Pinelis 1994)."""
    limit = math.log(2 / UNLIKELY)
    return (limit * reach / 3 + math.sqrt((limit * reach / 3) ** 2 + 2 * keys * limit * variance)) / keys


@codec_law
def a_contraction_leaves_on_average_at_most_what_it_promises(case: Case) -> None:
    """`delta`: |C(x) - x|^2 is on average at most (1 - delta) |x|^2."""
    delta = None if case.codec.lift else case.codec.contract(case.flat).delta
    if delta is None:
        return
    demand(0 < delta <= 1, "delta must be in (0, 1]", delta=delta)
    for seed in range(3):
        _contracts(case, case.vector(Key(seed)), delta, DRAWS if seed == 0 else 40)
    hard = hard_vectors(case.spec.numel)
    for name in EXTREMES:
        _contracts(case, torch.from_numpy(hard[name]).to(case.flat.torch_dtype), delta, 20)


def _contracts(case: Case, x: Tensor, delta: float, keys: int) -> None:
    norm2 = float(x.double().square().sum())
    losses = (draws(case, x, keys) - x.double()).square().sum(1)
    limit = (1 - delta) * norm2 + _spread(losses, norm2**2) + 1e-6 * norm2
    demand(float(losses.mean()) <= limit, "Too much is lost", input=x, limit=limit, lost=float(losses.mean()))


@codec_law
def an_unbiased_codec_is_right_on_average_and_varies_no_more_than_it_promises(case: Case) -> None:
    """`omega`: C(x) is x on average over the keys, and |C(x) - x|^2 on average at most omega |x|^2."""
    omega = None if case.codec.lift else case.codec.contract(case.flat).omega
    if omega is None:
        return
    x = case.vector(Key(3))
    norm2 = float(x.double().square().sum())
    found = draws(case, x)
    losses = (found - x.double()).square().sum(1)
    limit = omega * norm2 + _spread(losses, norm2**2 * max(1.0, omega) ** 2) + 1e-6 * norm2
    demand(float(losses.mean()) <= limit, "C(x) varies too much", input=x, limit=limit, found=float(losses.mean()))
    miss2 = float((found.mean(0) - x.double()).square().sum())  # E of this is at most omega*|x|^2/DRAWS
    stray = bernstein(omega * norm2, 2 * float(losses.max()) ** 0.5, DRAWS) ** 2
    limit = min(stray, omega * norm2 / DRAWS * 1e3) + 1e-10 * norm2
    demand(miss2 <= limit, "C(x) is biased", input=x, mean=found.mean(0), squared_bias=miss2, limit=limit)


def _spread(losses: Tensor, ranges2: float) -> float:
    return 0.0 if float(losses.max()) == float(losses.min()) else hoeffding(ranges2, len(losses))


@codec_law
def error_feedback_loses_nothing_for_good(case: Case) -> None:
    """Under error feedback, what is remembered and what is sent sum to what came in.

    Left out for a codec that error feedback refuses.
    """
    if not isinstance(case.codec, Chain):
        return
    try:
        codec = ErrorFeedback(case.codec)
    except LocalError:
        return
    spec = case.flat
    state, memory = codec.init(spec), codec.memory(spec)
    for t in range(10):
        x, before = case.vector(Key(t)), memory[0].clone()
        message, memory = codec.encode(x, spec, state, memory, Keys(PRIVATE.fold(t), COMMON.fold(t)))
        x_hat, state = codec.decode(message, spec, state)
        close(x_hat + memory[0], x + before, 1e-6, 1e-5, "Something got lost")
