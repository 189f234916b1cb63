"""RendezvousStore: the notices that all processes of a run can read; torch's TCPStore below it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from fewbits.engines.distributed.process_info import ProcessInfo
from fewbits.errors import FewbitsError, LocalError, PeerLostError

WORDS = "last words"
POLL = 0.02  # seconds between two looks
PATIENCE = 1.0  # seconds more than torch's own limit


class RendezvousStore:
    """Short texts under names, in the TCPStore of this run and this attempt.

    Every access raises GoneError when the store is gone.
    """

    def __init__(self, store: Any, place: ProcessInfo) -> None:
        self._place, self._tcp = place, store
        prefix = f"fewbits/{place.attempt}"
        self.store: Any = dist.PrefixStore(prefix, store)  # pyright: ignore[reportPrivateImportUsage] - it is documented

    @staticmethod
    def meet(place: ProcessInfo, patience: float) -> RendezvousStore:
        """Go to the store, or open it as rank 0; LocalError when the port is in use, GoneError when nobody is there."""
        hosts = place.hosts
        nobody = (
            f"node {place.rank} finds no rendezvous store at {place.where} within {patience:g} s: node 0 has not come"
        )
        try:
            store = _in_time(lambda: _tcp(place, patience, hosts), patience + PATIENCE)
        except dist.DistNetworkError as error:
            raise _cannot_open(place, error) if hosts else PeerLostError(nobody) from None
        except (dist.DistStoreError, TimeoutError):
            raise PeerLostError(f"{nobody}, or another program uses that port") from None
        return RendezvousStore(store, place)

    def another(self) -> RendezvousStore:
        """A connection of its own, for another thread: a store's calls wait for each other."""
        return RendezvousStore(self._tcp.clone(), self._place)

    def post(self, name: str, text: str) -> None:
        """Write, or write over."""
        with self._there():
            self.store.set(name, text)

    def first(self, name: str, text: str) -> str:
        """Write if nothing is there; what is there now."""
        with self._there():
            return self.store.compare_set(name, "", text).decode()

    def count(self, name: str) -> int:
        """One more than before."""
        with self._there():
            return self.store.add(name, 1)

    def has(self, *names: str) -> bool:
        """Whether all of them are there."""
        with self._there():
            return self.store.check(list(names))

    def read(self, names: Sequence[str]) -> list[str]:
        """What is there; all of them must be."""
        with self._there():
            return [found.decode() for found in self.store.multi_get(list(names))]

    @property
    def words(self) -> str | None:
        """Why the run ends, once somebody has said it."""
        return self.read([WORDS])[0] if self.has(WORDS) else None

    def say(self, words: str) -> str:
        """Say why the run ends; the first to speak is believed, and is what comes back."""
        return self.first(WORDS, words)

    @contextmanager
    def _there(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # torch's errors are
            if isinstance(error, FewbitsError):
                raise
            raise PeerLostError(f"{self._place.store} is gone") from None


def until(done: Callable[[], bool], patience: float) -> bool:
    """Whether it is done within so many seconds; returns as soon as it is."""
    last = time.monotonic() + patience
    while not (found := done()) and time.monotonic() < last:
        time.sleep(POLL)
    return found


def _in_time(work: Callable[[], Any], limit: float) -> Any:
    """What `work` gives; TimeoutError after `limit` seconds: a port whose owner says nothing keeps torch for ever."""
    found: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            found.put((work(), None))
        except RuntimeError as error:  # torch's errors are
            found.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        value, error = found.get(timeout=limit)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return value


def _tcp(place: ProcessInfo, patience: float, hosts: bool) -> Any:
    wait = timedelta(seconds=patience)
    kind = dist.TCPStore  # pyright: ignore[reportPrivateImportUsage] - it is documented
    return kind(place.host, place.port, None, hosts, wait, wait_for_workers=False)


def _cannot_open(place: ProcessInfo, error: Exception) -> LocalError:
    if "EADDRINUSE" in str(error) or "address already in use" in str(error):
        return LocalError(
            f"port {place.port} is in use: by another program or run, or by a second process that claims to be node 0 "
            "(RANK); give another MASTER_PORT, or every process a RANK of its own"
        )
    return LocalError(f"node 0 cannot open the rendezvous store at {place.where}: {str(error).splitlines()[0][:200]}")
