"""Envelope: one message as one record of one value, because every record costs Flower kilobytes.

A value is `links.bundle.pack` of a JSON object and its parts: first a bundle or a frame, then what the kind needs. The
JSON holds metrics and the user's configuration. The last part is a checksum of all others, because the JSON holds the
weight of a reply. `FIELDS` declares every field, and `opened` checks them all before any is used.
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

from fewbits.engines.flower import schema
from fewbits.errors import WireError
from fewbits.links.bundle import pack, unpack

NAME = "fewbits"  # of the record, of its value, and the stype of large ones
VERSION = 3
LARGE = 5_000_000  # bytes; from here on an Array, which Flower sends in chunks
MARGIN = 1 << 20  # bytes beyond what a frame may have: JSON with the user's metrics
RUN = re.compile(r"[A-Za-z0-9_-]{1,64}")
LONG = schema.text(MARGIN)
FIELDS: dict[str, schema.Check] = {
    "v": schema.whole(),
    "kind": schema.text(40),
    "round": schema.whole(0, schema.LARGEST_ROUND),
    "run": schema.text(),  # names the client's folder, once it fits `RUN`
    **dict.fromkeys(("uplink", "downlink", "space", "inside", "seed"), LONG),  # what both ends must have in common
    "client": schema.whole(),  # its partition id
    "state": schema.text(64),  # the name of its folder
    "arrays": schema.text(),  # the key of the ArrayRecord
    "records": schema.records,
    "version": schema.whole(),  # of the public model that the client holds
    "values": schema.one_of("none", "exact", "all"),  # the arrays of which a frame up holds values, not differences
    "carried": schema.text(64),  # the digest of the arrays that travel as they are
    "custom": schema.flag,  # the message has arrays of its own, not the server's model
    "text": LONG,
    "lost": schema.flag,
    "temporary": schema.flag,  # whether the client's state goes at the end of the run
    "bytes": schema.whole(),  # that a client has removed
}


@dataclass(frozen=True)
class Envelope:
    """`kind`: hello, train, evaluate, goodbye, or (only in replies) trouble."""

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
        """A field that must be there; `opened` has checked that it is text."""
        return self._there(name)

    def number(self, name: str) -> int:
        """A field that must be there; `opened` has checked that it is a whole number."""
        return self._there(name)

    def part(self, at: int = 0) -> bytes:
        """A part that must be there."""
        if at >= len(self.parts):
            raise WireError(f"envelope: {self.kind} has {len(self.parts)} parts; expected number {at}")
        return self.parts[at]

    def _there(self, name: str) -> Any:
        if name not in self.fields:
            raise WireError(f"envelope: {self.kind} has no {name}")
        return self.fields[name]


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
    fields = schema.read(head, FIELDS, "the message")
    if fields.pop("v", None) != VERSION:
        raise WireError(f"the message is not of envelope version {VERSION}, which this library reads")
    if not parts or parts.pop() != checksum([head, *parts]):
        raise WireError("the message is damaged: its checksum is not that of what it says")
    if "kind" not in fields or "round" not in fields:
        raise WireError("envelope: there must be a kind and a round")
    return Envelope(fields.pop("kind"), fields.pop("round"), fields, tuple(parts))


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
    """Undo `described`; WireError on anything that it would not have written."""
    schema.records("records", described)
    try:
        return {
            name: MetricRecord(values) if kind == "m" else ConfigRecord(_from_json(values))
            for name, kind, values in described
        }
    except (TypeError, ValueError, KeyError) as error:
        raise WireError(f"the message's metrics or configuration are none: {error}") from None


def together(arrays: Mapping[str, ArrayRecord], found: Envelope) -> RecordDict:
    """Arrays with the records of an envelope; WireError when one of each has the same name."""
    records = restored(found.fields.get("records", []))
    twice = sorted(arrays.keys() & records.keys())
    if twice:
        raise WireError(f"the message has arrays and another record of the same name: {twice!a}")
    return RecordDict({**arrays, **records})


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
