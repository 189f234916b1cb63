"""Programs of Python as forks of this process, where the start of an interpreter is not the point.

A fork has all that this process has imported, which takes a new interpreter seconds; what the program does is the same.
"""

from __future__ import annotations

import contextlib
import logging
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Sequence
from pathlib import Path


class Forked:
    """A program in a session of its own, with what tests use of `subprocess.Popen`; it never outlives this process.

    Warnings are errors in it where they are in the test.

    Args:
        words: what stands behind `python`: a file or `-m` and a module, then arguments.
        captured: its stdout and stderr are kept for `communicate`; False: they are this process's.
    """

    def __init__(self, words: Sequence[object], captured: bool = True) -> None:
        self.returncode: int | None = None
        self._said: list[str] = []
        self._texts = [tempfile.TemporaryFile("w+") for _ in range(2 * captured)]  # noqa: SIM115
        self.pid = os.fork()
        if not self.pid:
            os._exit(_play([str(word) for word in words], [text.fileno() for text in self._texts]))
        self._end = weakref.finalize(self, _kill, self.pid)

    def poll(self) -> int | None:
        """Its exit code, minus the signal that ended it, or None while it runs."""
        if self.returncode is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                self._end.detach()
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float = 120.0) -> int:
        """Its exit code, once it has ended."""
        until = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(0.01)
        return code

    def communicate(self, timeout: float = 120.0) -> tuple[str, str]:
        """Its stdout and stderr, once it has ended."""
        self.wait(timeout)
        while self._texts:
            with self._texts.pop(0) as text:
                text.seek(0)
                self._said.append(text.read())
        return self._said[0], self._said[1]

    def kill(self) -> None:
        """End it at once."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _kill(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _play(words: list[str], texts: list[int]) -> int:
    """In the child: the exit code. Nothing of pytest's may run, so the caller leaves by `os._exit`."""
    code = 1
    try:
        if texts:
            os.setsid()
        for number, text in enumerate(texts, 1):
            os.dup2(text, number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        logging.getLogger().handlers.clear()  # pytest's
        _run(words)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue] - as at the end of any program: its threads end first
        sys.stdout.flush()
        sys.stderr.flush()
    return code


def _run(words: list[str]) -> None:
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
