"""Envelope: one message as one record of one value, because every record costs Flower kilobytes.

A value is `links.bundle.pack` of a JSON object and its parts: first a bundle or a frame, then what the kind needs. The
JSON holds metrics and the user's configuration. The last part is a checksum of all others, because the JSON holds the
weight of a reply. Every field is checked against its bounds before use.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from isal.isal_zlib import crc32

from fewbits.errors import WireError
from fewbits.links.bundle import pack, unpack

NAME = "fewbits"  # of the record, of its value, and the stype of large ones
VERSION = 2
LARGE = 5_000_000  # bytes; from here on an Array, which Flower sends in chunks
MARGIN = 1 << 20  # bytes beyond what a frame may have: JSON with the user's metrics
RUN = re.compile(r"[A-Za-z0-9_-]{1,64}")  # names a folder


@dataclass(frozen=True)
class Envelope:
    """`kind`: hello, train, evaluate, or (only in replies) trouble."""

    kind: str
    round: int = 0
    fields: Mapping[str, Any] = field(default_factory=dict)  # JSON
    parts: tuple[bytes, ...] = ()

    def seal(self) -> RecordDict:
        """The content of a message."""
        head = {"v": VERSION, "kind": self.kind, "round": self.round, **self.fields}
        parts = [json.dumps(head, separators=(",", ":")).encode(), *self.parts]
        data = pack([*parts, checksum(parts)])
        if len(data) < LARGE:
            return RecordDict({NAME: ConfigRecord({NAME: data})})
        return RecordDict({NAME: ArrayRecord({NAME: Array("uint8", (len(data),), NAME, data)})})

    def text(self, name: str) -> str:
        """A field that must be text."""
        return self._typed(name, str)

    def number(self, name: str) -> int:
        """A field that must be a whole number, 0 or more."""
        value = self._typed(name, int)
        if isinstance(value, bool) or not 0 <= value < 2**62:
            raise WireError(f"envelope: {name} must be a whole number, 0 or more; got {value!r}")
        return value

    def part(self, at: int = 0) -> bytes:
        """A part that must be there."""
        if at >= len(self.parts):
            raise WireError(f"envelope: {self.kind} has {len(self.parts)} parts; expected number {at}")
        return self.parts[at]

    def _typed(self, name: str, kind: type) -> Any:
        value = self.fields.get(name)
        if not isinstance(value, kind):
            raise WireError(f"envelope: {name} must be {kind.__name__}; got {type(value).__name__}")
        return value


def value(content: RecordDict) -> bytes | None:
    """The bytes of a message that is an envelope, as they came; None for anybody else's message."""
    record = content.get(NAME)
    if isinstance(record, ConfigRecord) and isinstance(data := record.get(NAME), bytes):
        return data
    if isinstance(record, ArrayRecord) and (array := record.get(NAME)) is not None and array.stype == NAME:
        return array.data
    return None


def opened(data: bytes, limit: int | None = None) -> Envelope:
    """Undo `seal`; WireError on anything that is too large or that we would not have written."""
    if limit is not None and len(data) > limit + MARGIN:
        raise WireError(f"the message has {len(data)} bytes; at most {limit + MARGIN} can be of use")
    head, *parts = unpack(data) or [b""]
    try:
        fields = json.loads(head)
    except (ValueError, RecursionError):
        raise WireError("the message does not begin with JSON") from None
    if not isinstance(fields, dict):
        raise WireError(f"the message begins with a JSON {type(fields).__name__}; expected an object")
    if fields.pop("v", None) != VERSION:
        raise WireError(f"the message is not of envelope version {VERSION}, which this library reads")
    if not parts or parts.pop() != checksum([head, *parts]):
        raise WireError("the message is damaged: its checksum is not that of what it says")
    kind, number = fields.pop("kind", None), fields.pop("round", None)
    if not isinstance(kind, str) or not isinstance(number, int):
        raise WireError(f"envelope: kind must be text and round a number; got {kind!r} and {number!r}")
    return Envelope(kind, number, fields, tuple(parts))


def checksum(parts: Sequence[bytes]) -> bytes:
    """CRC-32 of parts, each after its length; no defence against somebody who means harm."""
    found = 0
    for part in parts:
        found = crc32(part, crc32(len(part).to_bytes(8, "big"), found))
    return found.to_bytes(4, "big")


def described(content: RecordDict) -> list[list[Any]]:
    """The metric and config records of a message, for JSON."""
    found = [[name, "m", dict(record)] for name, record in content.metric_records.items()]
    return found + [[name, "c", _to_json(dict(record))] for name, record in content.config_records.items()]


def restored(described: Any) -> dict[str, MetricRecord | ConfigRecord]:
    """Undo `described`; WireError on anything that Flower's records would not hold."""
    try:
        return {
            str(name): MetricRecord(values) if kind == "m" else ConfigRecord(_from_json(values))
            for name, kind, values in described
        }
    except (TypeError, ValueError, KeyError) as error:
        raise WireError(f"the message's metrics or configuration are none: {error}") from None


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"b": base64.b64encode(value).decode()}
    if isinstance(value, list):
        return [_to_json(item) for item in value]
    return {name: _to_json(item) for name, item in value.items()} if isinstance(value, dict) else value


def _from_json(values: Any) -> dict[str, Any]:
    return {name: _value(value) for name, value in values.items()}


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return [_value(item) for item in value]
    return base64.b64decode(value["b"], validate=True) if isinstance(value, dict) else value
