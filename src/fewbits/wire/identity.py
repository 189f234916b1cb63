"""canonical: the text that two ends, or two runs, compare to know that they use equal codecs.

The text follows from *wire names*, which each class declares, never from names of Python classes. It is part of the
wire format: docs/wire-format.md, "Identity". `repr` is for people and may change.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

import numpy as np

from fewbits.errors import LocalError

WIRE_NAME = re.compile(r"[a-z][a-z0-9_.-]*")
_CACHED = "_canonical"  # in the __dict__ of a frozen value: a link asks for every end that it builds


def canonical(value: object) -> str:
    """The canonical text of a frozen dataclass with a wire name: the name, then the fields in the order of their names.

    Fields equal to their default are left out, so a field that is added later, with a default, changes no identity.
    Equal numbers have one text, whatever their type.

    Args:
        value: a codec, transform, coder, Spec, or any other value that declares `wire_name`.

    Raises:
        LocalError: a class declares no wire name of its own; a field holds what has no canonical text.

    Example:
        >>> from fewbits import Spec, TopK
        >>> canonical(TopK(1)) == canonical(TopK(1.0))
        True
        >>> canonical(Spec((3, 4)))
        'tensor(shape=[3,4])'
    """
    cache = getattr(value, "__dict__", {})
    if _CACHED not in cache:
        name = wire_name(value)
        shown = sorted((f for f in fields(value) if f.compare), key=wire_field)  # pyright: ignore
        text = f"{name}({','.join(filter(None, (_field(name, value, field) for field in shown)))})"
        object.__setattr__(value, _CACHED, text)
    return cache[_CACHED]


def wire_name(value: object) -> str:
    """What the value's class is called on the wire; LocalError when it declares none, or is no frozen dataclass."""
    cls = type(value)
    name = cls.__dict__.get("wire_name")  # an inherited one would pass a changed class off as its parent
    if not isinstance(name, str) or not WIRE_NAME.fullmatch(name):
        raise LocalError(
            f"{cls.__name__} needs a wire name of its own, in lower case, such as "
            f'wire_name: ClassVar[str] = "acme.{cls.__name__.lower()}"; got {name!r}'
        )
    if not is_dataclass(value) or not cls.__dataclass_params__.frozen:  # pyright: ignore
        raise LocalError(f"{cls.__name__} has an identity on the wire, so it must be a frozen dataclass")
    return name


def wire_field(field: Field[Any]) -> str:
    """What a field is called on the wire: its name, or `metadata["wire"]` where Python's name has changed since."""
    return field.metadata.get("wire", field.name)


def _field(owner: str, value: object, field: Field[Any]) -> str:
    """`name=text`, or "" for the default."""
    where, found = f"{owner}: {field.name}", getattr(value, field.name)
    if found is field.default:
        return ""
    text = _text(found, where)
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    if default is not MISSING and text == _text(default, where):
        return ""
    return f"{wire_field(field)}={text}"


def _text(value: object, where: str) -> str:
    match value:
        case None:
            return "none"
        case bool() | np.bool_():
            return "true" if value else "false"
        case str():
            return json.dumps(value)
        case int() | float() | np.integer() | np.floating():
            return _number(value, where)
        case tuple():
            return f"[{','.join(_text(part, where) for part in value)}]"
    if is_dataclass(value) and not isinstance(value, type):
        return canonical(value)
    raise LocalError(
        f"{where} must be a number, text, None, a tuple, or a value with a wire name; got {type(value).__name__}"
    )


def _number(value: int | float | np.number[Any], where: str) -> str:
    """A whole number in decimal digits; any other as the shortest decimal that reads back as the same double."""
    if isinstance(value, int | np.integer):
        return str(int(value))
    number = float(value)  # pyright: ignore
    if not math.isfinite(number):
        raise LocalError(f"{where} must be finite to have an identity on the wire; got {number}")
    return str(int(number)) if number.is_integer() else repr(number)
