"""Laws of purity: a frame follows from value, state and keys alone, and nothing else changes."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import torch

from fewbits.codecs import Keys, same
from fewbits.codecs.lifts.flat_each_route import as_lift
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.testing.case import Case, codec_law
from fewbits.testing.ends import COMMON, PRIVATE, fingerprint, run
from fewbits.testing.law import demand
from fewbits.testing.values import vector


@codec_law
def bytes_do_not_depend_on_global_state_and_do_not_touch_it(case: Case) -> None:
    """Same values and keys, same frames: no global generator is read or moved."""
    xs = list(case.stream(4))
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - that it is never read is the point
        random.seed(seed)
        before = torch.get_rng_state(), _numpy_state(), random.getstate()
        found.append(case.run(xs)[0])
        demand(torch.equal(before[0], torch.get_rng_state()), "The generator of torch moved")
        demand(np.array_equal(before[1], _numpy_state()), "The generator of NumPy moved")
        demand(before[2] == random.getstate(), "The generator of random moved")
    demand(found[0] == found[1], "Frames differ", input=xs[0], first=tuple(found[0]), second=tuple(found[1]))


def _numpy_state() -> Any:
    return np.random.get_state()[1].copy()  # pyright: ignore  # noqa: NPY002


@codec_law
def bytes_do_not_depend_on_the_number_of_threads(case: Case) -> None:
    """One thread and two threads give the same frames."""
    n = 40_001  # torch cuts loops of more than 32768 elements
    rounds = 2 if case.codec.stateless else 3
    xs = [torch.from_numpy(vector(Key(3).fold("base"), n) + 0.3 * vector(Key(3).fold(t), n)) for t in range(rounds)]
    values = list(case.stream(rounds)) if case.only else [{"bias": x[:9], "weight": x[9:]} for x in xs]
    spec = case.spec if case.only else Spec.of(values[0])
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(run(case.codec, values, spec)[0])
    finally:
        torch.set_num_threads(threads)
    demand(found[0] == found[1], "Frames differ", input=values[0], one=tuple(found[0]), two=tuple(found[1]))


@codec_law
def inputs_are_not_changed(case: Case) -> None:
    """Sending writes nothing into the value."""
    for one in case.alone():
        xs = list(one.stream(4))
        one.run(xs)
        for x, before in zip(xs, one.stream(4), strict=True):
            demand(fingerprint(x) == fingerprint(before), "The input changed", before=before, after=x)


@codec_law
def encoding_and_decoding_change_none_of_their_arguments(case: Case) -> None:
    """`encode` and `decode` write into none of their arguments: value, state, memory and message stay as they were."""
    for one in case.alone():
        _changes_nothing(one)


def _changes_nothing(case: Case) -> None:
    codec, spec = as_lift(case.codec, "testing"), case.spec
    state, memory = codec.init(spec), codec.memory(spec)
    for t, (x, value) in enumerate(zip(case.stream(4), case.stream(4), strict=True)):
        before = copy.deepcopy((state, memory))
        message, new_memory = codec.encode(x, spec, state, memory, Keys(PRIVATE.fold(t), COMMON.fold(t)))
        demand(fingerprint(x) == fingerprint(value), "encode changed the value", before=value, after=x)
        demand(same((state, memory), before), "encode changed state or memory", before=before, after=(state, memory))
        sent = copy.deepcopy(message)
        _, new_state = codec.decode(message, spec, state)
        demand(same(state, before[0]), "decode changed the state", input=x, before=before[0], after=state)
        demand(same(message, sent), "decode changed the message", input=x, before=sent, after=message)
        state, memory = new_state, new_memory


@codec_law
def changing_a_sent_or_received_value_later_changes_nothing(case: Case) -> None:
    """Ends keep no reference to a value that they were given or gave, nor to a frame's buffer."""
    for one in case.alone():
        _forgets(one)


def _forgets(case: Case) -> None:
    expected, _, control, _ = case.run(case.stream(5))
    sender, receiver = case.ends()
    for x, frame in zip(case.stream(5), expected, strict=True):
        found = sender.send(x)
        demand(found == frame, "Frames differ after an earlier value was overwritten", expected=frame, found=found)
        spoil(x)
        sender.commit()
        buffer = bytearray(found)
        value = receiver.receive(buffer)  # pyright: ignore
        buffer[:] = bytes(len(buffer))  # a network library may use it again
        spoil(value)
    demand(sender.dump() == control.dump(), "The sender changed", expected=control.dump(), found=sender.dump())
    demand(same(sender.state, receiver.state), "States differ", sender=sender.state, receiver=receiver.state)


def spoil(value: object) -> None:
    """Overwrite every number of a value."""
    for tensor in value.values() if isinstance(value, dict) else [value]:
        assert isinstance(tensor, torch.Tensor)
        tensor.fill_(torch.nan)
