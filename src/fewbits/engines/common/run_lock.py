"""RunLock: one folder has one run. A second process that wants to write there is refused by name."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from weakref import WeakValueDictionary, finalize

from fewbits.errors import LocalError
from fewbits.files import placed

LOCK = "lock"
SECONDS = 10.0  # for the workers of a killed process to end
POLL = 0.1  # seconds
NOT_SUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}  # by some network file systems
_locks: WeakValueDictionary[str, RunLock] = WeakValueDictionary()  # of this process, by the folder's real path


class RunLock:
    """An advisory lock on a folder, for as long as this value lives; the system drops it when the process ends.

    Runs of one process share the lock, but only one of them is played at a time. Forked workers share it, too: a folder
    stays locked until the last worker of a killed run has ended. The file names the process; only its lock counts.

    Raises:
        LocalError: another process has the folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lock = RunLock.of(Path(folder))
        ...     with lock.playing():
        ...         RunLock.of(Path(folder)) is lock
        True
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._played = folder, False
        with placed(folder / LOCK):
            self._file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        self._close = finalize(self, os.close, self._file)
        try:
            self._acquire()
        except BaseException:
            self._close()
            raise
        with placed(folder / LOCK):
            os.truncate(self._file, 0)
            os.pwrite(self._file, json.dumps(_this_process()).encode(), 0)

    @staticmethod
    def of(folder: Path) -> RunLock:
        """The lock of a folder that exists."""
        path = os.path.realpath(folder)
        found = _locks.get(path)
        if found is None:
            found = _locks[path] = RunLock(folder)
        return found

    def _acquire(self) -> None:
        end = time.monotonic() + SECONDS
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in NOT_SUPPORTED:
                    return
                holder = self._holder()
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES) or _lives(holder) or time.monotonic() > end:
                    raise LocalError(_sentence(self.folder, holder)) from None
                time.sleep(POLL)
            else:
                return

    def _holder(self) -> dict[str, object]:
        """What the file says of the process that has the lock; empty when it says nothing."""
        with suppress(OSError, ValueError):
            found = json.loads(os.pread(self._file, 4096, 0))
            return found if isinstance(found, dict) else {}
        return {}

    @contextmanager
    def playing(self) -> Iterator[None]:
        """Around the rounds of a run; LocalError when another run of this process is played in the folder."""
        if self._played:
            raise LocalError(f"another run of this process is being played in {self.folder}; wait for its end")
        self._played = True
        try:
            yield
        finally:
            self._played = False


def check_unused(folder: Path) -> None:
    """LocalError names the process that has the folder now; a folder without a lock is left as it is."""
    if (folder / LOCK).is_file():
        RunLock.of(folder)


def _this_process() -> dict[str, object]:
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]) if sys.argv else ""
    since = datetime.now().isoformat(" ", "seconds")
    return {"pid": os.getpid(), "host": platform.node(), "command": command[:200], "since": since}


def _lives(holder: dict[str, object]) -> bool:
    """Whether the process lives, or may live: one of another host is not seen from here."""
    pid = holder.get("pid")
    if not isinstance(pid, int) or holder.get("host") != platform.node():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _sentence(folder: Path, holder: dict[str, object]) -> str:
    who = "another process"
    if holder:
        who = f"process {holder.get('pid')} on {holder.get('host')} ({holder.get('command')})"
    return f"{folder} is in use by {who}, since {holder.get('since', 'an unknown time')}; wait for its end, or stop it"
