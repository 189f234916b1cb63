"""Schema: the fields of an envelope, each declared once with its type and bounds.

A peer writes the JSON of an envelope. `read` returns the fields that this version knows, checked; unknown ones are left
out. Everything that is not as declared raises WireError, which names the field.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from fewbits.errors import WireError

Check = Callable[[str, Any], None]  # (name, value); WireError unless the value is as declared
LARGEST_ROUND = 2**31 - 1
SHOWN = 80  # characters of a value in a sentence
INT64 = 2**63


def read(data: bytes, fields: Mapping[str, Check], what: str) -> dict[str, Any]:
    """The declared fields of a JSON object; WireError on any other bytes or values.

    >>> read(b'{"round": 3, "more": 1}', {"round": whole()}, "an envelope")
    {'round': 3}
    """
    try:
        found = json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise WireError(f"{what} does not begin with JSON: {str(error)[:SHOWN]}") from None
    if not isinstance(found, dict):
        raise WireError(f"{what} begins with a JSON {type(found).__name__}; expected an object")
    for name, check in fields.items():
        if name in found:
            check(f"{what}: {name}", found[name])
    return {name: found[name] for name in fields if name in found}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def refuse(name: str, expected: str, value: Any) -> WireError:
    """The error for one field, with the value cut short."""
    try:
        shown = ascii(value)
    except (ValueError, RecursionError):  # an int of more digits than Python prints, or lists that are too deep
        shown = f"a {type(value).__name__} that cannot be shown"
    return WireError(f"{name} must be {expected}; got {shown if len(shown) <= SHOWN else shown[:SHOWN] + ' ...'}")


def whole(least: int = 0, most: int = 2**62 - 1) -> Check:
    """A whole number within bounds; a bool or a float is none."""

    def check(name: str, value: Any) -> None:
        if type(value) is not int or not least <= value <= most:
            raise refuse(name, f"a whole number in {least}..{most}", value)

    return check


def text(most: int = 1000) -> Check:
    """Text of at most so many characters, all of which UTF-8 can write."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, str) or len(value) > most or not _writable(value):
            raise refuse(name, f"text of at most {most} characters", value)

    return check


def _writable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True


def one_of(*choices: Any) -> Check:
    """One of these values, of the same type."""

    def check(name: str, value: Any) -> None:
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            raise refuse(name, f"one of {', '.join(map(repr, choices))}", value)

    return check


flag = one_of(True, False)
_name = text(1000)


def records(name: str, value: Any) -> None:
    """Metric and config records as `envelope.described` writes them: [name, "m" or "c", {key: value}]."""
    if not isinstance(value, list):
        raise refuse(name, "a list of records", value)
    names = set()
    for record in value:
        if not isinstance(record, list) or len(record) != 3 or not isinstance(record[2], dict):
            raise refuse(name, "a list of [name, kind, values]", record)
        _name(f"{name}: a name", record[0])
        one_of("m", "c")(f"{name}: the kind of {record[0]!r}", record[1])
        scalar = _metric if record[1] == "m" else _setting
        for key, item in record[2].items():
            _name(f"{name}: a key", key)
            _one_or_many(f"{name}: {key!r}", item, scalar)
        names.add(record[0])
    if len(names) != len(value):
        raise refuse(name, "records of different names", [record[0] for record in value])


def _one_or_many(name: str, value: Any, scalar: Check) -> None:
    items = value if isinstance(value, list) else [value]
    for item in items:
        scalar(name, item)
    if len({type(item) for item in items}) > 1:
        raise refuse(name, "a list of values of one type", value)


def _metric(name: str, value: Any) -> None:
    """A number as Flower sends it; NaN and infinite ones are for the strategy to judge."""
    if type(value) not in (int, float) or (type(value) is int and not -INT64 <= value < INT64):
        raise refuse(name, "a number of 64 bits, or a list of such", value)


def _setting(name: str, value: Any) -> None:
    if isinstance(value, str):
        text(2**20)(name, value)
    elif isinstance(value, dict):
        if set(value) != {"b"} or not isinstance(value["b"], str):
            raise refuse(name, "bytes in base64", value)
    elif type(value) is not bool:
        _metric(name, value)


def shape(name: str, value: Any) -> None:
    """The shape of an array."""
    if not isinstance(value, list) or len(value) > 32:
        raise refuse(name, "a list of at most 32 lengths", value)
    for length in value:
        whole(0, 2**40)(name, length)
