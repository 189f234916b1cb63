"""Carried: arrays that travel as they are, beside the frames, in one part of an envelope.

A part is `links.bundle.pack` of a JSON object, {"arrays": [[record, array, dtype, shape], ...]}, and the arrays' .npy
files in that order. Integers and bools travel so, and what a strategy puts into a message of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord

from fewbits.engines.flower import schema
from fewbits.engines.flower.npy import dtype_of, numbers
from fewbits.errors import LocalError, WireError
from fewbits.links.bundle import pack, unpack

NUMPY = "numpy.ndarray"  # Flower's name of the one form of an array that it computes with
Records = Mapping[str, Mapping[str, Array]]


def dump(records: Records, owner: str) -> bytes:
    """Records of arrays as one part; LocalError names an array that is not NumPy's."""
    head, files = [], []
    for name, arrays in records.items():
        for key, array in arrays.items():
            try:
                found = numbers(array.data) if array.stype == NUMPY else None
            except WireError as error:
                raise LocalError(f"{owner}: array {key!r} of {name!r} cannot travel: {error}") from None
            if found is None:
                raise LocalError(f"{owner}: array {key!r} of {name!r} is a {array.stype}; only NumPy's arrays travel")
            head.append([name, key, str(found.dtype), list(found.shape)])
            files.append(array.data)
    names = [name for name, arrays in records.items() if not arrays]
    return pack([json.dumps({"arrays": head, "empty": names}, separators=(",", ":")).encode(), *files])


def load(data: bytes) -> dict[str, ArrayRecord]:
    """Undo `dump`; WireError on anything that it does not write."""
    head, *files = unpack(data) or [b""]
    found = schema.read(head, {"arrays": _listed, "empty": _names}, "carried arrays")
    listed = found.get("arrays", [])
    if len(files) != len(listed):
        raise WireError(f"{len(listed)} carried arrays are listed; got {len(files)}")
    records: dict[str, dict[str, Array]] = {name: {} for name in found.get("empty", [])}
    for (name, key, dtype, shape), file in zip(listed, files, strict=True):
        array = numbers(file)
        if array.dtype != dtype_of(dtype) or list(array.shape) != shape:
            raise WireError(f"carried array {key!r} is {array.dtype} of {array.shape}; listed as {dtype} of {shape}")
        if key in records.setdefault(name, {}):
            raise WireError(f"carried array {key!r} of {name!r} is there twice")
        records[name][key] = Array(dtype, tuple(shape), NUMPY, file)
    return {name: ArrayRecord(arrays) for name, arrays in records.items()}


def digest(data: bytes) -> str:
    """By which both ends tell whether they hold the same part."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def arrays(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of the one record of a part, by name; none when it is empty."""
    records = load(data) if data else {}
    if len(records) > 1:
        raise WireError(f"the carried arrays of one model are of one record; got {len(records)}")
    return {key: numbers(array.data) for record in records.values() for key, array in record.items()}


def part(found: Mapping[str, np.ndarray], owner: str) -> bytes:
    """Arrays by name as one part; no bytes when there are none."""
    return dump({"": {name: Array(x) for name, x in found.items()}}, owner) if found else b""


def _names(name: str, value: Any) -> None:
    if not isinstance(value, list):
        raise schema.refuse(name, "a list of names", value)
    for item in value:
        schema.text()(name, item)


def _listed(name: str, value: Any) -> None:
    if not isinstance(value, list):
        raise schema.refuse(name, "a list of arrays", value)
    for item in value:
        if not isinstance(item, list) or len(item) != 4:
            raise schema.refuse(name, "a list of [record, array, dtype, shape]", item)
        for text in item[:2]:
            schema.text()(f"{name}: a name", text)
        dtype_of(item[2])
        schema.shape(f"{name}: the shape of {item[1]!a}", item[3])
