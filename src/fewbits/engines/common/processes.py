"""Children: forked processes of one thread, each with a pipe. They end with their parent, and report why they failed.

Only bytes pass through a pipe. A message is a JSON header and data; several may travel together.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, cast

import torch

from fewbits.errors import FewbitsError, LocalError
from fewbits.files import placed

Message = tuple[dict[str, Any], bytes]
WORKER = "fewbits-worker-"  # how the names of the processes begin
HUNG_UP = (EOFError, BrokenPipeError, ConnectionResetError)
CAUSES = {
    errno.ENOSPC: "/dev/shm, where its locks are, is full; free some of it, or take processes=1",
    errno.EMFILE: "this process has too many open files; raise the limit (`ulimit -n`), or take fewer processes",
    errno.ENFILE: "the system has too many open files; take fewer processes",
    errno.EAGAIN: "the system allows no more processes (`ulimit -u`); take fewer processes",
    errno.ENOMEM: "memory is full; take fewer processes",
}
SECONDS = 10.0  # for a child to end by itself


class Children:
    """The forked processes of one parent. They share arrays without a copy, and models may be closures."""

    def __init__(self) -> None:
        self.pipes: list[Connection] = []  # our ends, in the order of the children
        self._processes: list[Any] = []

    def __len__(self) -> int:
        return len(self._processes)

    def fork(self, serve: Callable[..., None], *arguments: Any) -> Connection:
        """Start a process that runs serve(its pipe, *arguments); returns our end of the pipe."""
        context = multiprocessing.get_context("fork")
        with starting(f"worker process {len(self)}"):
            ours, theirs = cast("tuple[Connection, Connection]", context.Pipe())
        self.pipes.append(ours)
        name, known = f"{WORKER}{len(self)}", (theirs, tuple(self.pipes), serve, arguments)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking beside idle library threads
            child = context.Process(target=_live, args=known, name=name, daemon=True)
            with starting(f"worker process {len(self)}"), _without_interrupts():
                child.start()
        theirs.close()
        self._processes.append(child)
        return ours

    def hear(self, pipe: Connection) -> list[Message]:
        """Wait for messages of one process; if it has ended, a message that says so."""
        try:
            return unpack(pipe.recv_bytes())
        except (EOFError, OSError):
            child = self._processes[self.pipes.index(pipe)]
            child.join(SECONDS)
            gone = f"a worker process ended unexpectedly (exit code {child.exitcode}); the run can be resumed"
            return [({"error": gone, "local": False}, b"")]

    def end(self) -> None:
        """Stop all after their present order, and wait; a process that does not end is killed."""
        for pipe in self.pipes:
            with suppress(OSError):  # that child is gone already
                pipe.send_bytes(pack(({"do": "stop"}, b"")))
            pipe.close()
        for child in self._processes:
            child.join(SECONDS)
            if child.is_alive():
                child.kill()
                child.join()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Around a fork: SIGINT must not reach the parent's handler in a child that has just begun."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def starting(what: str) -> Iterator[None]:
    """Around what processes share: LocalError says what could not be had, and what to do."""
    try:
        yield
    except OSError as error:
        cause = CAUSES.get(error.errno or 0, f"{error.strerror or error}; processes=1 needs none of this")
        raise LocalError(f"{what} cannot be made: {cause}") from error


def checked(message: Message) -> Message:
    """Return the message; raise it when it is a child's error."""
    header, _ = message
    if "error" in header:
        raise (LocalError if header["local"] else FewbitsError)(header["error"])
    return message


def pack(*messages: Message) -> bytes:
    """Messages that travel together: the length of their headers, these as JSON, then all data end to end."""
    text = json.dumps([(header, len(data)) for header, data in messages]).encode()
    return b"".join((len(text).to_bytes(4, "big"), text, *(data for _, data in messages)))


def unpack(packed: bytes) -> list[Message]:
    """Undo `pack`."""
    at = 4 + int.from_bytes(packed[:4], "big")
    messages = []
    for header, length in json.loads(packed[4:at]):
        messages.append((header, packed[at : at + length]))
        at += length
    return messages


def _live(
    pipe: Connection, inherited: Sequence[Connection], serve: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    """In the child: serve until the parent says stop, or has ended."""
    for end in inherited:
        end.close()  # a child that held another's end would hide the parent's death from it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it is held back until here
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    one_thread()
    try:
        with placed("a worker process"):
            serve(pipe, *arguments)
    except HUNG_UP:
        return  # what was not committed is undone
    except FewbitsError as error:
        _complain(pipe, str(error), isinstance(error, LocalError))
    except Exception:  # noqa: BLE001 - whatever the user's model raised must reach the parent before this process ends
        _complain(pipe, f"a worker process failed:\n{traceback.format_exc()}", False)


def _complain(pipe: Connection, error: str, local: bool) -> None:
    with suppress(OSError):  # the parent is gone
        pipe.send_bytes(pack(({"error": error, "local": local}, b"")))


def one_thread() -> None:
    """Compute with one thread, so that results do not depend on the machine."""
    torch.set_num_threads(1)
