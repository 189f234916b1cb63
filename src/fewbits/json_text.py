"""JSON text of figures: a number that is not finite becomes null, because JSON has neither NaN nor Infinity."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any


def json_text(value: Any, *, indent: int | None = None, sort_keys: bool = False, ascii: bool = True) -> str:
    """The JSON text of a value; NaN and infinite numbers in it are null.

    Args:
        value: what the module `json` takes.
        indent: spaces for each level; None: all in one line.
        sort_keys: write the keys of objects in order.
        ascii: write other characters as escapes.

    Example:
        >>> json_text({"loss": float("nan"), "bits": [1, 2.5]})
        '{"loss": null, "bits": [1, 2.5]}'
    """
    encoder = _encoder(indent, sort_keys, ascii)
    try:
        return encoder.encode(value)
    except ValueError:  # the rare case: only then is the value walked through
        return encoder.encode(without_nan(value))


def without_nan(value: Any) -> Any:
    """The value with None for every number that is not finite, in lists, tuples and the values of mappings."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nan(x) for key, x in value.items()}
    return [without_nan(x) for x in value] if isinstance(value, list | tuple) else value


@lru_cache
def _encoder(indent: int | None, sort_keys: bool, ascii: bool) -> json.JSONEncoder:
    return json.JSONEncoder(allow_nan=False, indent=indent, sort_keys=sort_keys, ensure_ascii=ascii)
