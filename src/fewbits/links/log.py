"""Log: the entries of a broadcast and the snapshots that they lead on from, in memory or in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fewbits.errors import WireError
from fewbits.files import placed, sync
from fewbits.links.bundle import leb, unleb
from fewbits.wire import Frame

NAME = "log-{:08d}.frames"


class _Segment:
    """A snapshot of one version, its base, and the entries that lead on from it."""

    def __init__(self, base: bytes, path: Path | None) -> None:
        self.first = Frame.parse(base).header.sequence
        self.entries: list[bytes] = []
        self.path, self._base = path, base if path is None else b""

    @property
    def last(self) -> int:
        return self.first + len(self.entries)

    @property
    def base(self) -> bytes:
        if self.path is None:
            return self._base
        data = self.path.read_bytes()
        size, at = unleb(data, 0)
        return data[at : at + size]


class Log:
    """Segments, one file each, of a snapshot (the base) and the entries behind it, each after its length in LEB128.

    Files are only appended to; the oldest are removed once nobody can need them. (One file that is written anew when it
    is full would need a snapshot of an old version, and a run could not go back to a checkpoint before it.) A damaged
    file is cut back to its last sound record.
    """

    def __init__(self, folder: Path | None, every: int, codec: int) -> None:
        """`every`: entries in a segment; `codec`: the hash that all records have. Recovers what the folder holds."""
        self.folder, self._every, self._codec = folder, every, codec
        self._segments: list[_Segment] = []
        self._damage: list[tuple[int, str]] = []  # (the last version before it, a sentence)
        self._written: set[Path] = set()  # since the last sync
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(folder.glob(NAME.format(0).replace("0" * 8, "*"))):
                self._recover(path)

    @property
    def first(self) -> int:
        """The oldest version that can be rebuilt; 0: none."""
        return self._segments[0].first if self._segments else 0

    @property
    def last(self) -> int:
        """The newest version that can be rebuilt; 0: none."""
        return self._segments[-1].last if self._segments else 0

    @property
    def full(self) -> bool:
        """Whether a snapshot should come before the next entry."""
        return not self._segments or len(self._segments[-1].entries) >= self._every

    def begin(self, base: bytes) -> None:
        """Begin a segment with a snapshot of the newest version."""
        path = None
        if self.folder is not None:
            path = self.folder / NAME.format(Frame.parse(base).header.sequence)
            path.write_bytes(b"")
        segment = _Segment(base, path)
        if self._segments and self._segments[-1].first == segment.first:
            self._segments.pop()
        self._segments.append(segment)
        self._write(segment, base)

    def append(self, entry: bytes) -> None:
        """Add the next entry."""
        self._segments[-1].entries.append(entry)
        self._write(self._segments[-1], entry)

    def entries(self, since: int) -> list[bytes]:
        """The entries that lead from version `since`, at least `first`, to the newest."""
        return [e for s in self._segments if s.last > since for e in s.entries[max(0, since - s.first) :]]

    def path_to(self, version: int) -> tuple[bytes, list[bytes]]:
        """(the nearest snapshot at or before a version, the entries from there to it)."""
        segment = next(s for s in reversed(self._segments) if s.first <= version)
        return segment.base, segment.entries[: version - segment.first]

    def records(self) -> list[bytes]:
        """All records, in order."""
        return [record for s in self._segments for record in (s.base, *s.entries)]

    def forget(self, oldest: int) -> None:
        """Drop segments that are not needed to rebuild version `oldest` and later ones."""
        while len(self._segments) > 1 and self._segments[1].first <= oldest:
            _remove(self._segments.pop(0))

    def rewind(self, version: int) -> list[str]:
        """Drop what leads beyond a version; returns sentences about damage before it."""
        while self._segments and self._segments[-1].first > version:
            _remove(self._segments.pop())
        if self._segments and self.last > version:
            segment = self._segments[-1]
            del segment.entries[version - segment.first :]
            if segment.path is not None:
                _cut(segment.path, _size([segment.base, *segment.entries]))
        found = [said for reached, said in self._damage if reached < version]
        self._damage = []
        return found

    def clear(self) -> None:
        """Drop everything."""
        while self._segments:
            _remove(self._segments.pop())

    def sync(self) -> None:
        """Wait until all of it is on disk."""
        for path in [*filter(Path.exists, self._written), *([self.folder] if self.folder and self._written else [])]:
            sync(path)
        self._written.clear()

    def _write(self, segment: _Segment, record: bytes) -> None:
        if segment.path is not None:
            with placed(segment.path), segment.path.open("ab") as file:
                file.write(leb(len(record)) + record)
            self._written.add(segment.path)

    def _recover(self, path: Path) -> None:
        """Take over what is sound in a file; what does not lead on from the files before begins the log afresh."""
        records, trouble = self._read(path)
        if not records:
            self._damage.append((self.last, f"{path}: {trouble}; none of it can be used"))
            path.unlink()
            return
        segment = _Segment(records[0], path)
        segment.entries = records[1:]
        if trouble:
            self._damage.append((segment.last, f"{path}: {trouble}; it was cut back to version {segment.last}"))
            _cut(path, _size(records))
        if self._segments and self.last != segment.first:
            self._damage.append((segment.first, f"{path}: versions before {segment.first} are lost"))
            self.clear()
        self._segments.append(segment)

    def _read(self, path: Path) -> tuple[list[bytes], str]:
        """(the sound records at the start of a file, what is wrong behind them)."""
        data, at, records = path.read_bytes(), 0, []
        try:
            while at < len(data):
                size, start = unleb(data, at)
                if size > len(data) - start:
                    raise WireError(f"a record of {size} bytes begins at byte {start}, {len(data) - start} are left")
                self._check(data[start : start + size], records)
                records.append(data[start : start + size])
                at = start + size
        except WireError as error:
            return records, str(error)
        return records, "" if records else "it is empty"

    def _check(self, record: bytes, before: Sequence[bytes]) -> None:
        header = Frame.parse(record).header
        if header.codec != self._codec:
            raise WireError(f"a record is of another codec or Spec: {header.codec:04X}, expected {self._codec:04X}")
        if header.snapshot == bool(before):
            raise WireError("a file of the log holds one snapshot, and entries behind it")
        if before and header.sequence != Frame.parse(before[0]).header.sequence + len(before) - 1:
            raise WireError(f"entry {header.sequence} is out of order")


def _size(records: Sequence[bytes]) -> int:
    return sum(len(leb(len(record))) + len(record) for record in records)


def _remove(segment: _Segment) -> None:
    if segment.path is not None:
        segment.path.unlink(missing_ok=True)


def _cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)
