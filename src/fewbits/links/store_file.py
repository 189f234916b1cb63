"""One file of a StateStore: how it is opened, and what its rows must be."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

from fewbits.checks import shown
from fewbits.errors import LocalError

SCHEMA = """
CREATE TABLE IF NOT EXISTS states (
    run TEXT NOT NULL, owner INTEGER NOT NULL, part TEXT NOT NULL, round INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (run, owner, part, round)
)
"""
# What is deleted there, a trigger tells of: its slot is free once that is committed.
FREED = (
    "CREATE TEMP TABLE freed (data TEXT)",
    "CREATE TEMP TRIGGER deleted AFTER DELETE ON main.states WHEN typeof(OLD.data)='text' "
    "BEGIN INSERT INTO freed VALUES (OLD.data); END",
)
FULL = sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM  # the disk or memory, no mistake of the caller
PAGE_BYTES = 8 * 1024  # larger ones take a row of a megabyte faster, and waste a quarter on rows of ten kilobytes
LOG_BYTES = 4 * 2**20  # the write-ahead log goes into the file beyond this size
PATIENCE = 60.0  # seconds for a lock
CACHE_KIB = 16 * 1024  # the most page cache per file and process
SIZES = f"page_size={PAGE_BYTES}", f"cache_size=-{CACHE_KIB}"  # blobs are chains of pages
PRAGMAS = (*SIZES, "journal_mode=WAL", f"wal_autocheckpoint={LOG_BYTES // PAGE_BYTES}", "temp_store=MEMORY")
Row = tuple[int, bytes | str, str]  # round, data, name of the file


def connected(path: Path, synchronous: str) -> sqlite3.Connection:
    """A file with its table. Where several processes begin it at once, SQLite may refuse one without a wait."""
    until = time.monotonic() + PATIENCE
    while True:
        file = sqlite3.connect(path, timeout=PATIENCE)
        try:
            for pragma in (*PRAGMAS, f"synchronous={synchronous}"):
                file.execute(f"PRAGMA {pragma}")
            file.execute(SCHEMA)
            file.commit()
        except sqlite3.OperationalError as error:
            file.close()
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return file


def cause(path: Path) -> str | None:
    """What the system says against opening the file; SQLite does not pass it on."""
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError as error:
        return error.strerror
    return None


def checked_row(folder: Path, row: Row, owner: int, part: str) -> Row:
    """The row; LocalError unless its values are of the kinds that were written."""
    round, data, name = row
    if not isinstance(round, int) or not isinstance(data, bytes | str):
        raise LocalError(
            f"{folder / name}: {part} of client {owner} is damaged: round {shown(round)} has {shown(data)} where a "
            "state is"
        )
    return row
