"""Disk: bring the clients' states to disk before a checkpoint refers to them."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from fewbits.files import placed, sync


class Disk:
    """Syncs the files of a folder of states; use it as a context manager around all that has them open.

    A file stays open from its first sync until the end. In POSIX, closing any descriptor of a file drops all locks of
    this process on it, also those of SQLite connections.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[Path, int] = {}

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def sync(self) -> None:
        """Wait until all that was committed is on disk: databases, their logs, slots, and the files' names."""
        for path in sorted(self._folder.glob("states-*.s*")):
            if path.name.endswith("-shm"):
                continue  # an index that SQLite makes anew
            if path not in self._files:
                self._files[path] = os.open(path, os.O_RDWR)
            with placed(path):
                os.fsync(self._files[path])
        sync(self._folder)
