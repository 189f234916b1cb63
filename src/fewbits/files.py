"""Writing files: a crash leaves the old file or the new one, and an error names the place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def placed(path: Path | str) -> Iterator[None]:
    """Around work on a file: an OSError without a place, as a full disk gives, gets this one.

    >>> import errno
    >>> with placed("runs/first/metrics.jsonl"):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    OSError: [Errno 28] No space left on device: 'runs/first/metrics.jsonl'
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file, flush it to disk and rename it to `path`."""
    part = path.with_name(path.name + ".part")
    with placed(path):
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync(path.parent)  # the rename must be on disk before a caller relies on it


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk; not for a file that SQLite has open here."""
    opened = os.open(path, os.O_RDONLY)
    try:
        with placed(path):
            os.fsync(opened)
    finally:
        os.close(opened)
