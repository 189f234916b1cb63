"""Writing files: a crash leaves the old file or the new one, and an error names the place."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fewbits.errors import FewbitsError, LocalError


@contextmanager
def placed(path: Path | str) -> Iterator[None]:
    """Around work on a file or folder: an OSError, as a full disk gives, becomes a FewbitsError that names the place.

    >>> import errno
    >>> with placed("runs/first/metrics.jsonl"):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    fewbits.errors.FewbitsError: runs/first/metrics.jsonl: No space left on device
    """
    try:
        yield
    except ConnectionError:
        raise  # a process that is gone, not a place
    except OSError as error:
        raise FewbitsError(f"{error.filename or path}: {error.strerror or error}") from error


def check_folder(path: Path) -> None:
    """LocalError unless `path` is a folder that can be written to, or one that can be made; it is not made here."""
    if "\0" in str(path):
        raise LocalError(f"{str(path)!r} cannot be the name of a folder: it has a zero character")
    _check(path, next((parent for parent in (path, *path.parents) if parent.exists()), path))


def check_file(path: Path) -> None:
    """LocalError unless a file can be written at `path`; its folder must exist."""
    if path.is_dir():
        raise LocalError(f"{path} is a folder; give a file")
    if not path.parent.exists():
        raise LocalError(f"{path} cannot be written: there is no folder {path.parent}")
    _check(path, path.parent)


def _check(path: Path, folder: Path) -> None:
    """Try the folder itself: rights, quotas and read-only disks are known to the system alone."""
    if not folder.is_dir():
        raise LocalError(f"{path} cannot be written: {folder} is a file; give a folder")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise LocalError(f"{path} cannot be written: {error.strerror} in {folder}") from error


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
