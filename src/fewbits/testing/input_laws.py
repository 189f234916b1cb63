"""Laws of inputs: every length, shape, dtype and layout, and the hard numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewbits.codecs import same
from fewbits.errors import LocalError
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.testing.case import Case, codec_law
from fewbits.testing.ends import deliver, run
from fewbits.testing.law import During, demand, short
from fewbits.testing.values import HARD_INPUTS, HUGE, bounded, hard_vectors, stream, tree, vector

LENGTHS = (*range(10), 15, 16, 17, 24, 31, 32, 33)  # around the ends of bytes and words


@codec_law
def values_that_are_not_finite_are_refused_by_name_and_change_nothing(case: Case) -> None:
    """NaN and infinity are a LocalError that names the tensor, and the sender stays as it was."""
    sender, receiver = case.ends()
    deliver(sender, receiver, case.first())
    before = sender.dump()
    for bad in (torch.nan, torch.inf, -torch.inf):
        x = case.first(8)
        name, tensor = _spoiled(x)
        tensor.view(-1)[3 % tensor.numel()] = bad
        try:
            sender.send(x)
        except LocalError as error:
            demand(name in str(error), "The error does not name the tensor", tensor=name, error=str(error))
        else:
            raise AssertionError(f"{bad} in {name} was sent; input: {short(x)}")
        demand(sender.dump() == before, "The sender changed", input=x, before=before, after=sender.dump())
    deliver(sender, receiver, case.first(8))


def _spoiled(x: Any) -> tuple[str, Tensor]:
    tensors = list(x.items()) if isinstance(x, dict) else [("tensor", x)]
    longest = max(tensor.numel() for _, tensor in tensors)
    return next((name, tensor) for name, tensor in reversed(tensors) if tensor.numel() >= min(4, longest))


def refusals(case: Case, names: tuple[str, ...] = HARD_INPUTS) -> dict[str, list[LocalError]]:
    """The hard inputs that the codec refuses: by name, the errors."""
    return {name: errors for name in names if (errors := _refusals(case, name))}


def _refusals(case: Case, name: str) -> list[LocalError]:
    sender, receiver = case.ends()
    n, found = case.spec.numel, []
    hard = hard_vectors(n)[name]
    for x in (hard, hard[::-1], np.zeros(n), vector(Key(7), n), hard):
        value, before = bounded(tree(x.astype(np.float32), None, case.spec)), sender.dump()
        try:
            with During(f"Sending {name!r}", value, allows=LocalError):
                deliver(sender, receiver, value)
        except LocalError as error:
            found.append(error)
            demand(sender.dump() == before, "A refused value changed the sender", input=value)
        demand(same(sender.state, receiver.state), "States differ", input=value)
    return found


@codec_law
def hard_values_come_out_finite(case: Case) -> None:
    """Zeros, ties, denormals and the largest numbers arrive; only numbers near 1e38 may be refused, by a LocalError."""
    for name, errors in refusals(case).items():
        demand(name in HUGE, f"{name!r} was refused", error=str(errors[0]))


@codec_law
def every_length_and_shape_works(case: Case) -> None:
    """Of no entries, of few, and around whole words, as one tensor or several: a value of the same shape arrives."""
    rounds = 2 if case.codec.stateless else 3  # a first value, one after it, and where states change once more
    for n in () if case.only else LENGTHS:
        x = torch.from_numpy(vector(Key(n), n))
        tree, deep = {"weight": x, "bias": x.clone()}, x.reshape(1, -1, 1)
        for value in (x, tree, deep) if n <= 3 or n % 8 in (0, 1) else ((x, tree, deep)[n % 3],):
            spec = Spec.of(value)
            if case.takes(spec):
                with During("Sending", value, allows=LocalError):
                    found = Spec.of(run(case.codec, [value] * rounds, spec)[1][-1])
                demand(found == spec, "Another shape arrived", expected=spec, found=found)


@codec_law
def every_float_type_works_and_keeps_its_type(case: Case) -> None:
    """Half, bfloat16 and double precision arrive in their own dtype, mixed ones too."""
    if case.only:
        return
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        xs = list(stream(5, dtype=dtype, spec=case.spec))
        _arrives(case, xs)
    mixed = case.first() | {"bias": torch.ones(5, dtype=torch.float16)}
    _arrives(case, [mixed] * 2)


def _arrives(case: Case, xs: list[Any]) -> None:
    spec = Spec.of(xs[0])
    with During("Sending", xs[0], allows=LocalError):
        _, values, sender, receiver = run(case.codec, xs, spec)
    found = Spec.of(values[-1])
    demand(found == spec, "Another dtype or shape arrived", expected=spec, found=found)
    demand(same(sender.state, receiver.state), "States differ", sender=sender.state, receiver=receiver.state)


@codec_law
def memory_layout_does_not_matter(case: Case) -> None:
    """Strided tensors, and tensors with a gradient, give the frames of plain ones."""
    plain = case.first(4)
    expected = case.run([plain] * 2)[0]
    for change in (_strided, lambda x: x.clone().requires_grad_()):
        other = {name: change(x) for name, x in plain.items()} if isinstance(plain, dict) else change(plain)
        found = case.run([other] * 2)[0]
        demand(found == expected, "Frames differ", input=plain, expected=tuple(expected), found=tuple(found))


def _strided(x: Tensor) -> Tensor:
    """The same numbers, not end to end in memory."""
    if x.dim() == 2:
        return x.T.contiguous().T
    return x.repeat_interleave(2, -1)[..., ::2] if x.dim() else x
