"""Laws of identity: a codec is named on the wire by its wire name and its fields, and equal codecs by equal text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from fewbits import codecs, coders
from fewbits.codecs import Codec, Transform
from fewbits.coders import Coder
from fewbits.errors import LocalError
from fewbits.links import Receiver, Sender
from fewbits.testing.case import Case, codec_law
from fewbits.testing.ends import COMMON, PRIVATE, deliver
from fewbits.testing.law import demand
from fewbits.wire.identity import canonical, wire_name


@codec_law
def every_part_has_a_unique_wire_name(case: Case) -> None:
    """The codec and its parts are frozen dataclasses with a `wire_name` that no class of fewbits has."""
    has_a_unique_name(case.codec)


def has_a_unique_name(value: Any) -> None:
    """Demand an identity of a value and of all that is in it."""
    taken = {
        cls.__dict__["wire_name"]: cls
        for cls in _subclasses(Transform, Codec, Coder)
        if cls.__module__.startswith("fewbits.") and "wire_name" in cls.__dict__
    }
    for part in parts(value):
        other = taken.get(wire_name(part), type(part))
        demand(other is type(part), f"{wire_name(part)!r} is the wire name of {other.__name__}", part=part)
        canonical(part)


@codec_law
def equal_codecs_have_one_identity_and_understand_each_other(case: Case) -> None:
    """Codecs that differ in the types of their numbers, such as 1 and 1.0, have one identity and share a link."""
    for twin in twins(case.codec):
        is_the_same(twin, case.codec)
        sender, receiver = Sender(twin, case.spec, PRIVATE, COMMON), Receiver(case.codec, case.spec, COMMON)
        for x in case.stream(2):
            deliver(sender, receiver, x)


def is_the_same(twin: Any, value: Any) -> None:
    """Demand that a twin is equal and has the same identity."""
    demand(twin == value, "A number of another type makes another codec", one=value, other=twin)
    text, other = canonical(value), canonical(twin)
    demand(text == other, "Equal codecs have two identities", one=text, other=other, twin=twin)


@codec_law
def repr_builds_an_equal_codec(case: Case) -> None:
    """`repr` is the call that builds an equal codec."""
    repr_builds_an_equal_value(case.codec)


def repr_builds_an_equal_value(value: Any) -> None:
    """Demand that eval(repr(value)) is equal and has the same hash and repr."""
    public = {name: getattr(room, name) for room in (codecs, coders) for name in room.__all__}
    again = eval(repr(value), public | {type(part).__name__: type(part) for part in parts(value)})
    demand(again == value, "repr builds another codec", repr=repr(value), built=again)
    demand(hash(again) == hash(value), "Equal codecs have unequal hashes", repr=repr(value))
    demand(repr(again) == repr(value), "repr is not stable", first=repr(value), second=repr(again))


def twins(value: Any) -> list[Any]:
    """The value with each number in it, one at a time, of another type; those that its class refuses are left out."""
    found = []
    for field in fields(value):
        for other in _others(getattr(value, field.name)):
            with suppress(LocalError):  # refused: then it has no identity either
                found.append(replace(value, **{field.name: other}))
    return found


def _others(part: Any) -> list[Any]:
    if isinstance(part, bool):
        return [int(part), float(part)]
    if isinstance(part, int):
        return [float(part), np.int64(part), np.float64(part), *([bool(part)] if part in (0, 1) else [])]
    if isinstance(part, float):
        whole = [int(part), bool(part)] if part in (0, 1) else [int(part)] if part.is_integer() else []
        return [np.float64(part), *whole, *([-0.0] if part == 0 else [])]
    if isinstance(part, tuple):
        return [(*part[:i], other, *part[i + 1 :]) for i, one in enumerate(part) for other in _others(one)]
    return twins(part) if hasattr(part, "wire_name") else []


def parts(value: Any) -> Iterator[Any]:
    """The value and, in depth, every value with fields that it holds."""
    if isinstance(value, tuple):
        for part in value:
            yield from parts(part)
    elif isinstance(value, Transform | Codec | Coder) or (is_dataclass(value) and not isinstance(value, type)):
        yield value
        for field in fields(value) if is_dataclass(value) else ():
            yield from parts(getattr(value, field.name))


def _subclasses(*roots: type) -> list[type]:
    return [deep for root in roots for deep in (root, *_subclasses(*root.__subclasses__()))]
