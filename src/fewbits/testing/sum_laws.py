"""Laws of sums: frames may be added before they are expanded."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fewbits.codecs import Keys, TreeTotal, as_lift, same
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.testing.case import Case, codec_law
from fewbits.testing.ends import COMMON, PRIVATE, flattened
from fewbits.testing.law import close, demand


@codec_law
def frames_summed_before_they_are_expanded_give_the_sum_of_the_values(case: Case) -> None:
    """`partial` and `complete` give the weighted sum of four senders, of which some missed rounds."""
    total, expected = TreeTotal(as_lift(case.codec, "testing"), case.spec), 0.0
    for client in range(4):
        value = _added(case, total, list(case.stream(1 + client % 3, seed=client)), 0.5 + client)
        expected = expected + (0.5 + client) * flattened(value)
    assert isinstance(expected, Tensor)
    close(flattened(total.value()), expected, 1e-5, 1e-5, "The sum is not the sum of the values")
    found = Spec.of(total.value())
    demand(found == case.spec, "The sum has another shape", expected=case.spec, found=found)


def _added(case: Case, total: TreeTotal, xs: list[Any], weight: float) -> Any:
    """Add one sender's last frame unexpanded; the value that it decodes to."""
    frames, values, _, _ = case.run(xs)
    (_, receiver), (_, reference) = case.ends(), case.ends()
    for frame in frames[:-1]:
        receiver.receive(frame)
    total.add(receiver.receive_partial(frames[-1]), weight=weight)
    for frame in frames:
        reference.receive(frame)
    demand(
        receiver.dump() == reference.dump(),
        "`partial` leaves another state than `decode`",
        input=xs[-1],
        decode=reference.dump(),
        partial=receiver.dump(),
    )
    return values[-1]


@codec_law
def following_a_message_gives_the_state_of_decoding_it(case: Case) -> None:
    """`follow` gives the state that `decode` gives, without the value."""
    codec = as_lift(case.codec, "testing")
    state, memory = codec.init(case.spec), codec.memory(case.spec)
    for i, x in enumerate(case.stream(3)):
        message, memory = codec.encode(x, case.spec, state, memory, Keys(PRIVATE.fold(i), COMMON.fold(i)))
        followed, after = codec.follow(message, case.spec, state), codec.decode(message, case.spec, state)[1]
        demand(same(followed, after), "`follow` gives another state than `decode`", input=x)
        state = after


@codec_law
def a_sum_of_nothing_is_zero(case: Case) -> None:
    """The sum of no messages is zero, of the right shape."""
    value = TreeTotal(as_lift(case.codec, "testing"), case.spec).value()
    demand(Spec.of(value) == case.spec, "The sum has another shape", found=value)
    demand(not bool(flattened(value).any()), "The sum is not zero", found=value)


@codec_law
def frames_of_a_linear_codec_add_up_unexpanded(case: Case) -> None:
    """`linear`: decode(sum of carriers) is the sum of the decoded, when all senders share the common key."""
    codec, spec = case.codec, case.flat
    if codec.lift or not codec.contract(spec).linear:
        return
    xs = [case.vector(Key(t)) for t in range(5)]
    state, memory = codec.init(spec), codec.memory(spec)
    messages = [codec.encode(x, spec, state, memory, Keys(PRIVATE.fold(i), COMMON))[0] for i, x in enumerate(xs)]
    partials = [codec.partial(m, spec, state)[0] for m in messages]
    summed = codec.complete(_sum([p.values for p in partials]), partials[0].side, spec)
    decoded = _sum([codec.decode(m, spec, state)[0] for m in messages])
    close(summed, decoded, 1e-5, 1e-5, "The sum of carriers decodes to another vector")


def _sum(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
