"""Ledger: every message that travelled, by round, client, direction and stage; all reported bytes come from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fewbits.errors import LocalError
from fewbits.files import placed
from fewbits.wire import Section

DIRECTIONS: tuple[str, ...] = ("up", "down")


@dataclass(frozen=True)
class Entry:
    """One message between the server and one client.

    Args:
        round: from 1.
        client: from 0.
        direction: "up" or "down".
        frame_bytes: len() of the message: headers, lengths and payloads.
        payload_bytes: the part of frame_bytes that is payload.
        stages: payload bits by innermost section, such as {"TopK": 2278, "Rans": 1536}.

    >>> Entry(round=1, client=0, direction="up", frame_bytes=48, payload_bytes=32).stages
    {}
    """

    round: int  # from 1
    client: int  # from 0
    direction: str  # "up" or "down"
    frame_bytes: int  # len() of the message: headers, lengths and payloads
    payload_bytes: int  # the part of frame_bytes that is payload
    stages: dict[str, int] = field(
        default_factory=dict
    )  # payload bits by innermost section, such as {"TopK": 2278, "Rans": 1536}


class Ledger:
    """Append entries to a JSON-lines file, one message a line, and keep running totals by direction.

    `frame_bytes`, `payload_bytes` and `messages` are sums since the file began: bytes, bytes and a count.

    Args:
        path: the file, which is continued if it exists; None: sums alone.

    Raises:
        LocalError: a line of the file is no entry; the message names the line.

    >>> ledger = Ledger()
    >>> ledger.add(Entry(round=1, client=0, direction="up", frame_bytes=48, payload_bytes=32))
    >>> ledger.frame_bytes
    {'up': 48, 'down': 0}
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lines: list[str] = []
        self.frame_bytes: dict[str, int] = dict.fromkeys(DIRECTIONS, 0)
        self.payload_bytes: dict[str, int] = dict.fromkeys(DIRECTIONS, 0)
        self.messages: dict[str, int] = dict.fromkeys(DIRECTIONS, 0)
        if path is not None and path.exists():
            with placed(path):
                for entry in read(path):
                    self._count(entry)

    @property
    def written(self) -> bool:
        """Whether entries go to a file; else only their sums stay."""
        return self._path is not None

    def add(self, entry: Entry) -> None:
        """Count one message; `flush` writes it."""
        self._count(entry)
        if self._path is not None:
            self._lines.append(json.dumps(vars(entry), separators=(",", ":")))

    def flush(self) -> int:
        """Write what was added since the last flush; returns the file's size in bytes."""
        if self._path is None:
            return 0
        with placed(self._path), self._path.open("a") as file:
            file.writelines(line + "\n" for line in self._lines)
        self._lines.clear()
        return self._path.stat().st_size

    def _count(self, entry: Entry) -> None:
        self.frame_bytes[entry.direction] += entry.frame_bytes
        self.payload_bytes[entry.direction] += entry.payload_bytes
        self.messages[entry.direction] += 1


def read(path: Path) -> Iterator[Entry]:
    """The entries of a ledger file; LocalError names a line that is no entry. One without its end is none yet."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate((line for line in file if line.endswith("\n")), 1):
            try:
                entry = Entry(**json.loads(line))
            except (ValueError, TypeError, RecursionError):
                raise LocalError(f"{path}, line {number}: not a ledger entry") from None
            if entry.direction not in DIRECTIONS:
                raise LocalError(f"{path}, line {number}: direction must be up or down; got {entry.direction!r}")
            numbers = (entry.round, entry.client, entry.frame_bytes, entry.payload_bytes)
            if not all(type(n) is int and n >= 0 for n in numbers):
                raise LocalError(
                    f"{path}, line {number}: round, client and bytes must be whole numbers, 0 or more; got {numbers}"
                )
            yield entry


def stages(sections: Sequence[Section]) -> dict[str, int]:
    """Bits of the innermost sections, summed by the last part of their names."""
    outer = {section.name.rpartition("/")[0] for section in sections}
    found: dict[str, int] = {}
    for section in sections:
        if section.name not in outer:
            stage = section.name.rpartition("/")[2]
            found[stage] = found.get(stage, 0) + section.stop - section.start
    return found


def by_stage(entries: Iterable[Entry], direction: str) -> dict[str, int]:
    """Payload bits by stage, summed over the entries of one direction."""
    found: dict[str, int] = {}
    for entry in entries:
        if entry.direction == direction:
            for stage, bits in entry.stages.items():
                found[stage] = found.get(stage, 0) + bits
    return found
