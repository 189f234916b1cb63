"""RendezvousStore: short texts that all processes of a run can read and write; torch's TCPStore carries them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from fewbits.engines.distributed.in_background import in_background
from fewbits.engines.distributed.process_info import ProcessInfo
from fewbits.errors import FewbitsError, LocalError, PeerLostError

FAILURE = "failure reason"
POLL = 0.02  # seconds between two reads
CONNECT_MARGIN = 1.0  # seconds beyond torch's own timeout


class RendezvousStore:
    """Short texts by key, in the TCPStore of this run and this attempt.

    Every access raises PeerLostError when the process that runs the store has ended.
    """

    def __init__(self, tcp_store: Any, process: ProcessInfo) -> None:
        self._process, self._tcp = process, tcp_store
        prefix = f"fewbits/{process.attempt}"
        self.torch_store: Any = dist.PrefixStore(prefix, tcp_store)  # pyright: ignore[reportPrivateImportUsage] - it is documented

    @staticmethod
    def connect(process: ProcessInfo, timeout: float) -> RendezvousStore:
        """Connect to the store; rank 0 opens it first unless torchrun has.

        Raises LocalError when the port is in use, and PeerLostError when no store answers within `timeout` seconds.
        """
        absent = (
            f"node {process.rank} finds no rendezvous store at {process.address} within {timeout:g} s: "
            "node 0 has not started"
        )
        try:
            # torch itself waits for ever at a port that sends nothing
            store = in_background(lambda: _tcp(process, timeout), timeout + CONNECT_MARGIN)()
        except dist.DistNetworkError as error:
            raise _cannot_open(process, error) if process.runs_store else PeerLostError(absent) from None
        except (dist.DistStoreError, TimeoutError):
            raise PeerLostError(f"{absent}, or another program uses that port") from None
        return RendezvousStore(store, process)

    def clone(self) -> RendezvousStore:
        """A second connection, for another thread: calls on one connection wait for each other."""
        return RendezvousStore(self._tcp.clone(), self._process)

    def set(self, key: str, text: str) -> None:
        """Write a text, or replace it."""
        with self._access():
            self.torch_store.set(key, text)

    def set_once(self, key: str, text: str) -> str:
        """Write a text unless the key has one; returns the key's text."""
        with self._access():
            return self.torch_store.compare_set(key, "", text).decode()

    def increment(self, key: str) -> int:
        """Add one to a counter; returns its value."""
        with self._access():
            return self.torch_store.add(key, 1)

    def has(self, *keys: str) -> bool:
        """Whether all keys have a text."""
        with self._access():
            return self.torch_store.check(list(keys))

    def get(self, keys: Sequence[str]) -> list[str]:
        """The texts of keys that all exist."""
        with self._access():
            return [text.decode() for text in self.torch_store.multi_get(list(keys))]

    @property
    def failure(self) -> str | None:
        """The failure reason that ends the run; None while no process has failed."""
        return self.get([FAILURE])[0] if self.has(FAILURE) else None

    def report_failure(self, reason: str) -> str:
        """End the run for this reason; returns the run's failure reason, which is the first that was reported."""
        return self.set_once(FAILURE, reason)

    @contextmanager
    def _access(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # torch raises subclasses of it
            if isinstance(error, FewbitsError):
                raise
            raise PeerLostError(f"{self._process.store_owner} was lost") from None


def wait_until(done: Callable[[], bool], timeout: float) -> bool:
    """Wait until done() is true, at most `timeout` seconds; returns the last value."""
    end = time.monotonic() + timeout
    while not (value := done()) and time.monotonic() < end:
        time.sleep(POLL)
    return value


def _tcp(process: ProcessInfo, timeout: float) -> Any:
    wait = timedelta(seconds=timeout)
    kind = dist.TCPStore  # pyright: ignore[reportPrivateImportUsage] - it is documented
    return kind(process.host, process.port, None, process.runs_store, wait, wait_for_workers=False)


def _cannot_open(process: ProcessInfo, error: Exception) -> LocalError:
    if "EADDRINUSE" in str(error) or "address already in use" in str(error):
        return LocalError(
            f"port {process.port} is in use by another program or run, or by a second process with RANK 0; "
            "give another MASTER_PORT, or every process a RANK of its own"
        )
    return LocalError(
        f"node 0 cannot open the rendezvous store at {process.address}: {str(error).splitlines()[0][:200]}"
    )
