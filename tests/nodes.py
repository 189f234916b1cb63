"""Run several nodes as forked processes with one free port; none of them outlives the test."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fewbits.engines.distributed import ProcessInfo
from fewbits.errors import FewbitsError

WITHIN = 40.0  # seconds until a process that still runs is killed and the test fails


class Outcome(NamedTuple):
    """How one process ended."""

    code: int  # exit code; minus the signal that killed it
    value: Any  # its return value, after JSON; None when it raised
    error: str  # class of the FewbitsError that it raised; ""
    text: str  # its stderr, with the error's sentence


def free_port() -> int:
    """A port on which no program listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def processes(size: int) -> list[ProcessInfo]:
    """`size` processes with one free port."""
    port = free_port()
    return [ProcessInfo(rank, size, "127.0.0.1", port) for rank in range(size)]


def run_all(
    act: Callable[[ProcessInfo], Any], infos: Sequence[ProcessInfo], disturb: Callable[[list[int]], None] | None = None
) -> list[Outcome]:
    """Run act(process) in one process each; `disturb` gets the process ids."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(number) for number in range(len(infos))]
        pids = [_fork(act, info, file) for info, file in zip(infos, files, strict=True)]
        try:
            if disturb:
                disturb(pids)
            codes = [_ended(pid, time.monotonic() + WITHIN) for pid in pids]
        finally:
            for pid in pids:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(OSError):
                    os.waitpid(pid, 0)
        return [_outcome(code, file) for code, file in zip(codes, files, strict=True)]


def _fork(act: Callable[[ProcessInfo], Any], info: ProcessInfo, file: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    stderr = os.open(file.with_suffix(".err"), os.O_WRONLY | os.O_CREAT)
    os.dup2(stderr, 2)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    code = 3
    try:
        file.write_text(json.dumps(["", act(info)]))
        code = 0
    except FewbitsError as error:
        file.write_text(json.dumps([type(error).__name__, None]))
        print(error, file=sys.stderr, flush=True)
        code = 1
    finally:
        if code == 3:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)  # nothing of pytest's own may run in the child


def _ended(pid: int, until: float) -> int:
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        assert time.monotonic() < until, "a node hangs"
        time.sleep(0.01)


def _outcome(code: int, file: Path) -> Outcome:
    error, value = json.loads(file.read_text()) if file.exists() else ["", None]
    stderr = file.with_suffix(".err")
    return Outcome(code, value, error, stderr.read_text(errors="replace") if stderr.exists() else "")


@contextlib.contextmanager
def other_program() -> Iterator[int]:
    """A port at which another program listens and sends nothing."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]
