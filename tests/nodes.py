"""Play several nodes as forked processes that meet at a free port; none outlives the test."""

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

from fewbits.engines.distributed import Place
from fewbits.errors import FewbitsError

WITHIN = 40.0  # seconds until whoever is still there is ended and the test fails


class Outcome(NamedTuple):
    """How one process ended."""

    code: int  # exit code; minus the signal that killed it
    value: Any  # what it returned, as JSON has it; None when it did not
    error: str  # class of the error it raised on purpose; ""
    text: str  # all that it told: the error's sentence, and what it wrote to stderr


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def places(size: int) -> list[Place]:
    """`size` processes that meet at a free port."""
    port = free_port()
    return [Place(rank, size, "127.0.0.1", port) for rank in range(size)]


def play(
    act: Callable[[Place], Any], where: Sequence[Place], meddle: Callable[[list[int]], None] | None = None
) -> list[Outcome]:
    """Run act(place) in one process per place; `meddle` gets their ids."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(number) for number in range(len(where))]
        pids = [_fork(act, place, file) for place, file in zip(where, files, strict=True)]
        try:
            if meddle:
                meddle(pids)
            codes = [_ended(pid, time.monotonic() + WITHIN) for pid in pids]
        finally:
            for pid in pids:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(OSError):
                    os.waitpid(pid, 0)
        return [_outcome(code, file) for code, file in zip(codes, files, strict=True)]


def _fork(act: Callable[[Place], Any], place: Place, file: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    reported = os.open(file.with_suffix(".err"), os.O_WRONLY | os.O_CREAT)
    os.dup2(reported, 2)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    code = 3
    try:
        file.write_text(json.dumps(["", act(place)]))
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
    reported = file.with_suffix(".err")
    return Outcome(code, value, error, reported.read_text(errors="replace") if reported.exists() else "")


@contextlib.contextmanager
def stranger() -> Iterator[int]:
    """A port at which another program listens and says nothing."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]
