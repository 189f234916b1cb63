"""StateStore: states of many clients on disk, by run, owner and part: in SQLite, and large ones beside it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fewbits.errors import FewbitsError, LocalError
from fewbits.files import placed
from fewbits.links.slots import Piece, Slots
from fewbits.links.store_file import FREED, FULL, Row, cause, checked_row, connected

USED = "SELECT data FROM main.states WHERE typeof(data)='text' UNION ALL SELECT data FROM freed"
PUT = (
    "DELETE FROM states WHERE run=:run AND owner=:owner AND part=:part AND (round=:round OR round < "
    "(SELECT MAX(round) FROM states WHERE run=:run AND owner=:owner AND part=:part AND round <= :horizon))",
    "DELETE FROM states WHERE run=:run AND owner=:owner AND part=:part AND round > :saved AND round < "
    "(SELECT MAX(round) FROM states WHERE run=:run AND owner=:owner AND part=:part AND round < :round)",
    "INSERT INTO states VALUES (:run, :owner, :part, :round, :data)",
)  # without `saved`, NULL, the second drops nothing
FETCH = "SELECT owner, round, data FROM states WHERE run=? AND part=? AND owner IN (SELECT value FROM json_each(?))"
OWNERS = "SELECT DISTINCT owner FROM states WHERE run=? AND part=?"
NEWEST = "SELECT round, data FROM states WHERE run=? AND owner=? AND part=? ORDER BY round DESC LIMIT 1"
LARGE = 32 * 1024  # bytes of a blob that gets a slot beside the database: SQLite would write it twice, page by page
MOST_DEFERRED, MOST_BYTES = 1024, 256 * 1024  # rows, and bytes of them, in memory before they are written


class StateStore:
    """Blobs by (run, owner, part), each version with the round that made it.

    Versions back to `horizon` stay, so that a run can go back to its last checkpoint. Each writer has one file, since
    SQLite takes one writer at a time. It reads the files of all writers, and sees what they have committed. Files have
    write-ahead logs: a process that is killed loses only what it had not committed. A large blob has a slot in a file
    beside the database, and keeps it until the loss of its row was committed.

    Args:
        folder: where the files are; it is made if it is missing.
        run: name that keeps the states of several runs in one folder apart.
        writer: name of this process's file.
        durable: whether `commit` waits for the disk, so that states survive a machine that loses power. A megabyte
            takes about 7 ms with it and 2 ms without.

    Raises:
        LocalError: a file in the folder is no state store, or cannot be opened.

    >>> import tempfile
    >>> from contextlib import closing
    >>> with tempfile.TemporaryDirectory() as folder, closing(StateStore(Path(folder))) as store:
    ...     store.put(owner=3, part="client.up", round=1, data=b"first")
    ...     store.put(owner=3, part="client.up", round=2, data=b"second")
    ...     store.get(3, "client.up"), store.newest(3, "client.up")
    (b'second', 2)
    """

    def __init__(self, folder: Path, run: str = "", writer: str = "0", durable: bool = True) -> None:
        self._durable = durable
        with placed(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.run = folder, run
        self.horizon = 0  # the oldest round to go back to: versions superseded at or before it may go
        self.saved: int | None = None  # the newest one, if known: of later versions, only the last two are kept
        self._name = f"states-{writer}.sqlite"
        self._fetched: dict[tuple[int, str], bytes | None] = {}  # fetched, until the next commit
        self._deferred: list[dict[str, object]] = []  # deferred: what `PUT` takes
        self._waiting: set[tuple[int, str]] = set()  # owner and part of each
        self._bytes = 0  # in all of them
        self._files: dict[str, sqlite3.Connection] = {}
        self._slots: dict[str, Slots] = {}  # beside each
        self._locked, self._seen = False, 0  # `_lock` was called since the commit; SQLite's count of others' commits
        self._writing = self._open(self._name)
        self.refresh()

    def put(self, owner: int, part: str, round: int, data: bytes | Sequence[Piece], now: bool = True) -> None:
        """Store a version, in one or more pieces; unless `now`, a small one may wait for others, as for `defer`.

        It replaces one of the same round, and drops those that no checkpoint leads back to.
        """
        pieces = [data] if isinstance(data, bytes) else data
        if sum(map(len, pieces)) >= LARGE:
            self._lock()
            self.defer(owner, part, round, self._slots[self._name].write(pieces).text)
        else:
            self.defer(owner, part, round, b"".join(pieces))
            if now:
                self._write()

    def _lock(self) -> None:
        """Take SQLite's lock until the commit, and look anew for what is free when others wrote this file since."""
        if self._writing.in_transaction and self._locked:
            return
        with self._placed():
            if not self._writing.in_transaction:
                self._writing.execute("BEGIN IMMEDIATE")
            (seen,) = self._writing.execute("PRAGMA data_version").fetchone()
            if seen != self._seen:
                self._slots[self._name].take_stock(text for (text,) in self._writing.execute(USED))
            self._seen, self._locked = seen, True

    def defer(self, owner: int, part: str, round: int, data: bytes | str) -> None:
        """`put` for small data: many are written at once, at the latest by `commit`."""
        if (owner, part) in self._waiting:
            self._write()
        self._fetched.pop((owner, part), None)
        self._waiting.add((owner, part))
        row = {"run": self.run, "owner": owner, "part": part, "round": round, "data": data}
        row["horizon"], row["saved"] = self.horizon, self.saved
        self._deferred.append(row)
        self._bytes += len(data)
        if len(self._deferred) == MOST_DEFERRED or self._bytes > MOST_BYTES:
            self._write()

    def _write(self) -> None:
        """Write what was deferred, in its order."""
        if self._deferred:
            with self._placed():
                for statement in PUT:
                    self._writing.executemany(statement, self._deferred)
            self._deferred.clear()
            self._waiting.clear()
            self._bytes = 0

    def get(self, owner: int, part: str) -> bytes | None:
        """The latest version by any writer, or None."""
        found = self.behind(b"", owner, part)
        return None if found is None else bytes(found)

    def behind(self, head: bytes, owner: int, part: str) -> Piece | None:
        """As `get`, with `head` before it; a memoryview is of fresh memory, which may be written to."""
        if (owner, part) in self._fetched:
            found = self._fetched[owner, part]
            return None if found is None else head + found
        best = self._newest(owner, part)
        return self._blob(best, owner, part, head) if best else None

    def _blob(self, row: Row, owner: int, part: str, head: bytes = b"") -> Piece:
        """`head`, then what a row stands for."""
        _, data, name = row
        if isinstance(data, bytes):
            return head + data
        try:
            return self._slots[name].read(data, head)
        except LocalError as error:
            newer = self._newest(owner, part)  # another process may have given the slot to another blob
            if newer is None or newer == row:
                raise LocalError(f"{error} ({part} of client {owner})") from error
            return self._blob(newer, owner, part, head)

    def place(self, owner: int, part: str) -> str:
        """Where the latest version is, and what it is, for an error."""
        best = self._newest(owner, part)
        return f"{self.folder / best[2] if best else self.folder}: {part} of client {owner}"

    def owners(self, part: str) -> set[int]:
        """Who has a version of this part."""
        self._write()
        found: set[int] = set()
        for name, file in self._files.items():
            with self._placed(name):
                found.update(owner for (owner,) in file.execute(OWNERS, (self.run, part)))
        return found

    def newest(self, owner: int, part: str) -> int | None:
        """The round that made the latest version, or None."""
        best = self._newest(owner, part)
        return best[0] if best else None

    def _newest(self, owner: int, part: str) -> Row | None:
        """Its round, its row's data, and the name of the file."""
        if (owner, part) in self._waiting:
            self._write()
        best: Row | None = None
        for name, file in self._files.items():
            with self._placed(name):
                found = file.execute(NEWEST, (self.run, owner, part)).fetchone()
            if found is not None:
                row = checked_row(self.folder, (*found, name), owner, part)
                best = row if best is None or row[0] > best[0] else best
        return best

    def fetch(self, owners: Sequence[int], part: str) -> None:
        """Read at once what `get` will be asked for. What others commit meanwhile is seen after the next `commit`."""
        self._write()
        best: dict[int, Row] = {}
        for name, file in self._files.items():
            with self._placed(name):
                rows = file.execute(FETCH, (self.run, part, json.dumps(list(owners)))).fetchall()
            for owner, round, data in rows:
                row = checked_row(self.folder, (round, data, name), owner, part)
                if owner not in best or row[0] > best[owner][0]:
                    best[owner] = row
        blobs = {owner: bytes(self._blob(row, owner, part)) for owner, row in best.items()}
        self._fetched.update({(owner, part): blobs.get(owner) for owner in owners})

    def commit(self) -> None:
        """Make what was put durable, and visible to the other writers."""
        self._write()
        if self._durable:
            self._slots[self._name].sync()
        with self._placed():
            self._writing.commit()
            if freed := self._writing.execute("SELECT data FROM freed").fetchall():
                self._writing.execute("DELETE FROM freed")
                self._writing.commit()
        self._slots[self._name].give_back(text for (text,) in freed)
        self._locked = False
        self._fetched.clear()

    @contextmanager
    def _placed(self, name: str = "") -> Iterator[None]:
        """Name the file in an error, such as that of a full disk; "": this writer's."""
        try:
            yield
        except sqlite3.Error as error:
            raise FewbitsError(f"{self.folder / (name or self._name)}: {error}") from error

    def refresh(self) -> None:
        """Open the files that other writers have made since."""
        for path in sorted(self.folder.glob("states-*.sqlite")):
            if path.name not in self._files:
                self._open(path.name)

    def rollback(self, round: int, owners: Iterable[int], part: str) -> None:
        """Drop the owners' versions of this round, if this writer made them."""
        self._write()
        self._fetched.clear()
        with self._placed():
            self._writing.executemany(
                "DELETE FROM states WHERE run=? AND owner=? AND part=? AND round=?",
                [(self.run, o, part, round) for o in owners],
            )

    def forget_after(self, round: int) -> None:
        """Drop the versions made after `round` in every file, so that a run goes on there; no writer may be open."""
        self._write()
        self._fetched.clear()
        with self._placed():
            for file in self._files.values():
                file.execute("DELETE FROM states WHERE run=? AND round>?", (self.run, round))
                if file is not self._writing:
                    file.commit()
        self.commit()

    def close(self) -> None:
        """Commit and close."""
        try:
            self.commit()
        finally:
            for file in (*self._files.values(), *self._slots.values()):
                file.close()

    def _open(self, name: str) -> sqlite3.Connection:
        path = self.folder / name
        try:
            file = connected(path, "FULL" if self._durable else "OFF")
            slots = Slots(path.with_suffix(".slots"), write=name == self._name)
            if name == self._name:
                for statement in FREED:
                    file.execute(statement)
                (self._seen,) = file.execute("PRAGMA data_version").fetchone()
                slots.take_stock(text for (text,) in file.execute(USED))
        except sqlite3.DatabaseError as error:
            kind = FewbitsError if getattr(error, "sqlite_errorcode", 0) & 0xFF in FULL else LocalError
            raise kind(f"{path}: cannot be used as a state store ({cause(path) or error})") from error
        self._files[name], self._slots[name] = file, slots
        return file
