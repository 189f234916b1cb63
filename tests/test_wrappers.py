"""LookBack against papers.md's box in NumPy, the limits of Predict, what Delta tracks, and stacks that are refused."""

import itertools

import numpy as np
import pytest
import torch

from every_codec import COMMON, PRIVATE, deliver, ends, payload_of, run, vector
from fewbits.codecs import (
    Adaptive,
    Blocks,
    DeadZone,
    Delta,
    ErrorFeedback,
    Keys,
    LookBack,
    LowRank,
    Predict,
    Quantize,
    RandK,
    Raw,
    Sign,
    Threshold,
    TopK,
    chain,
    each,
)
from fewbits.codecs.wrappers.look_back import Full, Recycled
from fewbits.coders import Rans
from fewbits.errors import LocalError
from fewbits.links.downlink import Downlink
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec

N = 60
SPEC = Spec((N,))


def drift(rounds: int, noise: float = 0.2, seed: int = 0) -> list[torch.Tensor]:
    """Updates around a direction, some far from it, and now and then against it."""
    base = vector(Key(seed), N)
    return [
        torch.from_numpy(
            np.float32(-0.5 if t % 5 == 4 else 1.0) * base
            + np.float32(noise * (1 + t % 3)) * vector(Key(seed).fold(t), N)
        )
        for t in range(rounds)
    ]


def encoded(codec, xs, spec=SPEC):
    """(message, decoded value) of each round, without a wire."""
    state, memory, found = codec.init(spec), codec.memory(spec), []
    for t, x in enumerate(xs):
        message, memory = codec.encode(x, spec, state, memory, Keys(PRIVATE.fold(t), COMMON.fold(t)))
        x_hat, state = codec.decode(message, spec, state)
        found.append((message, x_hat))
    return found


def look_back_oracle(vs: list[np.ndarray], recycles) -> list[tuple[float | None, np.ndarray]]:
    """The paper's box: (rho or None for a full send, what the receiver has) for vectors that are sent losslessly."""
    l, found = None, []
    for v in vs:
        v = v.astype(np.float64)
        if l is not None and np.dot(l, l) > 0:
            rho = np.dot(v, l) / np.dot(l, l)
            norms = np.linalg.norm(v) * np.linalg.norm(l)
            sin2 = 0.0 if norms == 0 else 1 - (np.dot(v, l) / norms) ** 2
            if recycles(v, sin2):
                found.append((rho, rho * l))
                continue
        l = v
        found.append((None, v))
    return found


def matches(codec, xs, recycles, spec=SPEC):
    """Whether the codec decides and decodes as the oracle; returns how often it recycled."""
    expected = look_back_oracle([x.numpy() for x in xs], recycles)
    for (message, x_hat), (rho, value) in zip(encoded(codec, xs, spec), expected, strict=True):
        assert isinstance(message, Recycled) == (rho is not None)
        if rho is not None:
            assert message.rho == pytest.approx(rho, rel=1e-6)
        np.testing.assert_allclose(x_hat.numpy(), value, rtol=1e-5, atol=1e-6)
    return sum(rho is not None for rho, _ in expected)


@pytest.mark.parametrize("threshold", [0.0, 0.15, 0.25, 0.4, 0.9, 1.0])
def test_look_back_is_the_papers_box(threshold):
    recycled = matches(LookBack(Raw(), threshold), drift(30), lambda v, sin2: threshold > 0 and sin2 <= threshold)
    assert recycled == {0.0: 0, 0.9: 29, 1.0: 29}.get(threshold, recycled)
    assert (recycled > 0) == (threshold > 0)


def test_a_vector_against_the_look_back_vector_is_recycled_with_a_negative_coefficient():
    x = torch.from_numpy(vector(Key(1), N))
    (second, value) = encoded(LookBack(Raw(), 0.1), [x, -2 * x])[1]
    assert second == Recycled(-2.0)
    assert torch.equal(value, -2 * x)


def test_zero_vectors_are_recycled_but_never_looked_back_to():
    x, zero = torch.ones(N), torch.zeros(N)
    kinds = [type(m) for m, _ in encoded(LookBack(Raw(), 0.1), [zero, zero, x, zero, x])]
    assert kinds == [Full, Full, Full, Recycled, Recycled]


@pytest.mark.parametrize("scale", [1e-41, 1e-25, 1e25, 1e38])
def test_scales_at_the_ends_of_float32_are_decided_alike(scale):
    xs = [torch.from_numpy((x.numpy().astype(np.float64) * scale / 20).astype(np.float32)) for x in drift(8)]
    found = encoded(LookBack(Raw(), 0.5), xs)
    assert all(bool(torch.isfinite(value).all()) for _, value in found)
    assert type(found[1][0]) is Recycled


def test_a_coefficient_that_would_overflow_is_not_used():
    small, large = torch.full((N,), 1e-30), torch.full((N,), 1e38)
    message, value = encoded(LookBack(Raw(), 0.5), [small, large])[1]
    assert type(message) is Full
    assert torch.equal(value, large)


def test_each_is_look_back_on_each_tensor_by_itself():
    sizes = (20, 30, 10)
    spec, xs = TreeSpec(tuple((name, Spec((n,))) for name, n in zip("abc", sizes, strict=True))), drift(20)
    for t, x in enumerate(xs):
        x[20:50] += 0.4 * torch.from_numpy(vector(Key(9).fold(t), 30))
    trees = [dict(zip("abc", x.split(sizes), strict=True)) for x in xs]
    oracles = [look_back_oracle([tree[name].numpy() for tree in trees], lambda v, sin2: sin2 <= 0.25) for name in "abc"]
    mixed = 0
    for t, (messages, x_hat) in enumerate(encoded(each(LookBack(Raw(), 0.25)), trees, spec)):
        kinds = [isinstance(m, Recycled) for m in messages]
        assert kinds == [oracle[t][0] is not None for oracle in oracles]
        for name, oracle in zip("abc", oracles, strict=True):
            np.testing.assert_allclose(x_hat[name].numpy(), oracle[t][1], rtol=1e-5, atol=1e-6)
        mixed += len(set(kinds)) > 1
    assert mixed > 0


def test_look_back_works_on_the_compressed_vector():
    """Plug and play: rho, sin2 and l are of C(x), not of x."""
    inner, xs = chain(TopK(0.2)), drift(12)
    compressed = [chain(TopK(0.2)).decode(inner.encode(x, SPEC, (), (), None)[0], SPEC, ())[0] for x in xs]
    expected = look_back_oracle([c.numpy() for c in compressed], lambda v, sin2: sin2 <= 0.5)
    found = encoded(LookBack(inner, 0.5), xs)
    assert [isinstance(m, Recycled) for m, _ in found] == [rho is not None for rho, _ in expected]
    for (_, x_hat), (_, value) in zip(found, expected, strict=True):
        np.testing.assert_allclose(x_hat.numpy(), value, rtol=1e-5, atol=1e-6)


def test_error_feedback_inside_goes_on_while_look_back_recycles():
    """The paper's plug and play: the residual is that of the compressed vector, whether it was sent or not."""
    inner = ErrorFeedback(chain(TopK(0.2)))
    codec, xs = LookBack(inner, 1.0), drift(6)
    state, memory = codec.init(SPEC), codec.memory(SPEC)
    own_state, own_memory = inner.init(SPEC), inner.memory(SPEC)
    for t, x in enumerate(xs):
        message, memory = codec.encode(x, SPEC, state, memory, Keys(PRIVATE.fold(t), COMMON.fold(t)))
        _, state = codec.decode(message, SPEC, state)
        _, own_memory = inner.encode(x, SPEC, own_state, own_memory, Keys(PRIVATE.fold(t), COMMON.fold(t)))
        assert torch.equal(memory.inner[0], own_memory[0])


def test_the_adaptive_rule_is_the_theorems():
    lr, steps, c = 0.1, 5, 2.0
    rule = Adaptive(lr, steps, c)
    xs = [0.15 * x for x in drift(30)]
    recycled = matches(LookBack(Raw(), rule), xs, lambda v, sin2: np.dot(v, v) / (lr * steps) ** 2 * sin2 <= c * lr)
    assert 0 <= recycled < 29
    assert matches(LookBack(Raw(), Adaptive(lr, steps, 1e6)), xs, lambda v, sin2: True) == 29


def test_feedback_adds_what_recycling_missed_until_a_full_send():
    xs = drift(20, noise=0.3)
    e, l = np.zeros(N), None
    for x, (message, x_hat) in zip(xs, encoded(LookBack(Raw(), 0.4, feedback=True), xs), strict=True):
        u = x.numpy() + e
        if isinstance(message, Recycled):
            rho = np.dot(u, l) / np.dot(l, l)
            assert message.rho == pytest.approx(rho, rel=1e-4)
            e = u - rho * l
        else:
            e, l = np.zeros(N), u
        np.testing.assert_allclose(x_hat.numpy(), message.rho * l if isinstance(message, Recycled) else u, atol=1e-4)


def test_observed_floor_is_the_largest_error_that_was_recycled():
    xs = drift(6)
    codec = LookBack(Raw(), 1.0)
    sender, receiver = ends(codec, SPEC)
    for t, x in enumerate(xs):
        deliver(sender, receiver, x)
        seen, l = sender.observe(), xs[0].double()
        sin2 = 1 - float(torch.dot(x.double(), l)) ** 2 / float(x.double().square().sum() * l.square().sum())
        floor = sin2 * float(x.double().square().sum()) if t else 0.0
        assert seen == {"recycled": float(t > 0), "floor": pytest.approx(floor, rel=1e-6)}
        assert receiver.observe() == {"recycled": float(t > 0)}


def test_a_recycled_round_of_431080_parameters_is_21_bytes():
    x = torch.from_numpy(vector(Key(1), 431_080))
    frames, values, _, _ = run(LookBack(Raw(), 0.2), [x, 0.5 * x], Spec.of(x))
    assert len(frames[0]) == 16 + 1 + 4 * 431_080
    assert len(frames[1]) == 16 + 5 <= 24
    torch.testing.assert_close(values[1], 0.5 * x)


@pytest.mark.parametrize("inner", [Raw(), chain(TopK(0.2), Quantize(4), Rans()), ErrorFeedback(chain(Sign()))])
def test_threshold_zero_is_the_inner_codec_and_a_tag(inner):
    xs = drift(8)
    plain, plain_values, _, _ = run(inner, xs, SPEC)
    tagged, values, _, _ = run(LookBack(inner, 0.0), xs, SPEC)
    for a, b, x, y in zip(plain, tagged, plain_values, values, strict=True):
        assert torch.equal(x, y)
        assert 0 <= len(b) - len(a) <= 1  # one bit, in the fill of the first byte or in a byte of its own


def test_predict_with_nothing_to_say_is_look_back_to_the_last_vector():
    """LBGM's recycling: when silent, only the coefficient travels, and the direction is that of the last full send."""
    xs = drift(10)
    silent = encoded(Predict(Raw(), silent=1.0), xs)
    look_back = encoded(LookBack(Raw(), threshold=1.0), xs)
    for (message, x_hat), (_, expected) in zip(silent[1:], look_back[1:], strict=True):
        assert message.rest is None
        torch.testing.assert_close(x_hat, expected, rtol=1e-4, atol=1e-5)


def test_predict_is_ef21_where_the_coefficient_is_one():
    """EF21 sends C(x - h); so does Predict when <x, h> = |h|^2."""
    x0 = torch.from_numpy(vector(Key(1), N))
    side = torch.from_numpy(vector(Key(2), N))
    x1 = x0 + side - x0 * (torch.dot(side, x0) / torch.dot(x0, x0))
    lossless, delta, predict = chain(TopK(1.0)), Delta(chain(TopK(0.2))), Predict(chain(TopK(0.2)))
    assert lossless.contract(SPEC).delta == 1.0
    keys = Keys(PRIVATE, COMMON)
    change, _ = delta.encode(x1, SPEC, delta.start(x0, SPEC), (), keys)
    message, _ = predict.encode(x1, SPEC, (x0, ()), (), keys)
    assert message.rho == pytest.approx(1.0, abs=1e-6)
    torch.testing.assert_close(
        predict.decode(message, SPEC, (x0, ()))[0],
        delta.decode(change, SPEC, delta.start(x0, SPEC))[0],
        atol=1e-5,
        rtol=0,
    )


@pytest.mark.parametrize("silent", [0.0, 0.3])
def test_predict_is_silent_exactly_when_the_rest_is_small(silent):
    xs, h = drift(15), None
    for x, (message, x_hat) in zip(xs, encoded(Predict(chain(TopK(0.2)), silent), xs), strict=True):
        if h is not None:
            u = x.numpy().astype(np.float64)
            rho = np.dot(u, h) / np.dot(h, h)
            rest = u - rho * h
            assert message.rho == pytest.approx(rho, rel=1e-5)
            assert (message.rest is None) == (silent > 0 and np.dot(rest, rest) <= silent * np.dot(u, u))
        h = x_hat.numpy().astype(np.float64)


def test_delta_comes_as_near_as_its_codec_allows():
    """With a constant target the difference shrinks by 1 - delta each round, and ends at the target."""
    x = torch.from_numpy(vector(Key(1), N))
    errors = [float((x - y).square().sum()) for _, y in encoded(Delta(chain(TopK(0.1))), [x] * 12)]
    assert all(b <= 0.9 * a + 1e-9 for a, b in itertools.pairwise(errors))
    assert errors[9] == 0.0


def test_delta_started_from_a_known_value_sends_only_what_changed():
    x = torch.from_numpy(vector(Key(1), N))
    codec = Delta(chain(TopK(0.1)))
    sender, receiver = ends(codec, SPEC)
    sender.start(x)
    receiver.adopt(sender.snapshot())
    y = x.clone()
    y[7] += 1
    assert torch.equal(deliver(sender, receiver, y)[1], y)


def test_delta_of_signs_tracks_a_moving_target():
    target = torch.zeros(N)
    step = torch.from_numpy(vector(Key(3), N)) * 0.05
    xs = [target + t * step for t in range(200)]
    for c in (Delta(chain(Sign())), Delta(chain(Quantize(4, mode="contractive")))):
        errors = [float((x - y).norm()) for x, (_, y) in zip(xs, encoded(c, xs), strict=True)]
        assert max(errors[-20:]) < 0.2 * float(xs[-1].norm())


@pytest.mark.parametrize(("bits", "spread", "least", "most"), [(2, 0, 10, 20), (3, 1.5, 3, 5), (4, 0, 0, 0.3)])
def test_the_residual_of_a_dither_on_few_levels_is_longer_than_the_vector(bits, spread, least, most):
    """Why 2 and 3 bits are refused: one large entry makes the noise of all others long."""
    codec, spec, residual, longest = chain(Quantize(bits=bits)), Spec((1000,)), torch.zeros(1000), 0.0
    sizes = torch.from_numpy(np.exp(np.random.default_rng(0).normal(0, spread, 1000))).float()
    for t in range(60):
        u = torch.from_numpy(vector(Key(t), 1000)) * sizes + residual
        message, _ = codec.encode(u, spec, None, codec.memory(spec), Keys(Key(t), Key(0)))
        residual = u - codec.decode(message, spec, None)[0]
        longest = max(longest, float(residual.norm() / sizes.norm()))
    assert least < longest < most


@pytest.mark.parametrize(
    ("levels", "least", "most"),
    [
        (Quantize(2), 3, 6),
        (Quantize(2, bucket="tensor"), 3, 6),
        (Quantize(2, bucket=64), 0, 0.3),
        (Quantize(3), 0, 0.1),
        (Quantize(2, mode="contractive"), 0, 0.95),
    ],
    ids=repr,
)
def test_what_a_delta_of_two_bit_levels_misses_is_longer_than_the_vector(levels, least, most):
    """Why Delta refuses them: the difference to a reference that is all noise takes noise of its own length."""
    n, codec = 100_000, chain(levels)
    x, spec, rng = torch.zeros(n), Spec((n,)), np.random.default_rng(0)
    reference = torch.zeros(n)
    for t in range(50):
        x = x + torch.from_numpy(rng.normal(0, 0.1 if t else 1, n)).float()
        message, _ = codec.encode(x - reference, spec, None, codec.memory(spec), Keys(Key(t), Key(0)))
        reference = reference + codec.decode(message, spec, None)[0]
    assert least <= float((x - reference).norm() / x.norm()) < most
    if least:
        with pytest.raises(LocalError, match=r"Delta around Quantize\(bits=2.*diverges; use 3 bits or more, Quantize"):
            Delta(codec)
    else:
        Delta(codec)


def test_a_downlink_of_two_bit_differences_is_refused():
    with pytest.raises(LocalError, match="Delta around Quantize"):
        Downlink(Delta(Raw()), personal=chain(Quantize(2), Rans()))
    Delta(chain(TopK(0.1), Quantize(2)))


def test_error_feedback_around_delta_would_grow_without_end():
    """Why the stack is refused: the same miss is counted twice."""
    x, h, e = np.ones(4), np.zeros(4), np.zeros(4)
    for _ in range(20):
        u = x + e
        change = np.where(np.arange(4) == np.argmax(np.abs(u - h)), u - h, 0)  # top 1 of 4
        h = h + change
        e = u - h
    assert np.linalg.norm(h - x) > 10


INNER = chain(TopK(0.1))
UNBIASED = chain(RandK(0.1, mode="unbiased"))
FEW = r"error feedback around Quantize\(bits=[23].*4 bits or more, Quantize\(mode=\"contractive\"\), DeadZone"
ILLEGAL = [
    (lambda: ErrorFeedback(ErrorFeedback(INNER)), "added twice"),
    (lambda: ErrorFeedback(LookBack(ErrorFeedback(INNER))), "added twice"),
    (lambda: ErrorFeedback(Delta(INNER)), "added twice"),
    (lambda: ErrorFeedback(UNBIASED), 'RandK\\(mode="contractive"\\)'),
    (lambda: LookBack(ErrorFeedback(UNBIASED)), "diverges"),
    (lambda: Delta(UNBIASED), "diverges"),
    (lambda: ErrorFeedback(Quantize(bits=2)), FEW),
    (lambda: ErrorFeedback(chain(Quantize(bits=3), Rans())), FEW),
    (lambda: ErrorFeedback(chain(Quantize(bits=2, norm="l2", bucket="tensor"), Rans())), FEW),
    (lambda: ErrorFeedback(Quantize(bits=2, bucket=64)), FEW),
    (lambda: ErrorFeedback(Blocks(chain(Raw("fp16"), Quantize(bits=3)), 4)), FEW),
    (lambda: ErrorFeedback(chain(LowRank(2), Quantize(bits=2))), FEW),
    (lambda: LookBack(ErrorFeedback(chain(Quantize(bits=2), Rans()))), FEW),
    (lambda: Delta(Delta(INNER)), "counted twice"),
    (lambda: Delta(ErrorFeedback(INNER)), "counted twice"),
    (lambda: LookBack(Predict(INNER)), "use one of them"),
    (lambda: LookBack(LookBack(INNER)), "use one of them"),
    (lambda: Predict(ErrorFeedback(INNER)), "outside, not inside"),
    (lambda: Predict(Delta(INNER)), "already the last decoded vector"),
    (lambda: LookBack(INNER, threshold=1.5), "threshold"),
    (lambda: LookBack(INNER, threshold=-0.1), "threshold"),
    (lambda: LookBack(INNER, threshold=True), "threshold"),
    (lambda: LookBack(INNER, feedback=1), "True or False"),
    (lambda: Predict(INNER, silent=2), "silent"),
    (lambda: Adaptive(lr=0, steps=1), "lr"),
    (lambda: Adaptive(lr=0.1, steps=0), "steps"),
    (lambda: Delta("raw"), "expected a codec"),
    (lambda: ErrorFeedback(None), "expected a codec"),
]


@pytest.mark.parametrize(("build", "says"), ILLEGAL, ids=range(len(ILLEGAL)))
def test_what_cannot_work_is_refused_when_it_is_built(build, says):
    with pytest.raises(LocalError, match=says):
        build()


LEGAL = [
    ErrorFeedback(chain(TopK(0.1), Quantize(bits=2), Rans())),
    ErrorFeedback(chain(Threshold(0.1), Quantize(bits=3))),
    ErrorFeedback(Quantize(bits=2, mode="contractive")),
    ErrorFeedback(chain(DeadZone(), Rans())),
    ErrorFeedback(Quantize(bits=4)),
    Delta(Quantize(bits=2, bucket=16)),
    LookBack(ErrorFeedback(INNER)),  # the paper's plug and play
    ErrorFeedback(LookBack(INNER)),  # feedback around all
    ErrorFeedback(Predict(INNER)),
    Delta(LookBack(INNER)),
    LookBack(Delta(INNER)),
]


@pytest.mark.parametrize("codec", LEGAL, ids=repr)
def test_legal_nestings_keep_both_ends_equal(codec):
    sender, receiver = ends(codec, SPEC)
    for x in drift(10):
        _, value = deliver(sender, receiver, x)
        assert torch.equal(value, sender.value)
        assert payload_of(receiver.dump()) == payload_of(sender.snapshot())


def test_sums_that_overflow_are_refused_and_change_nothing():
    big = torch.full((N,), 3e38)
    for codec in (Delta(INNER), ErrorFeedback(chain(TopK(0.1))), Delta(chain(Quantize(4)))):
        sender, receiver = ends(codec, SPEC)
        deliver(sender, receiver, big)
        before = sender.dump()
        with pytest.raises(LocalError, match="beyond the largest"):
            sender.send(-big if isinstance(codec, Delta) else big)
        assert sender.dump() == before
        deliver(sender, receiver, torch.zeros(N))
