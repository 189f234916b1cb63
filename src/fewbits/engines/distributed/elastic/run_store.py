"""RunStore: texts that all ranks of a run can read and swap; a torch TCPStore carries them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from fewbits.engines.distributed.elastic.options import address_of
from fewbits.engines.distributed.in_background import in_background
from fewbits.errors import FewbitsError, PeerLostError

CONNECT_MARGIN = 1.0  # seconds beyond torch's own timeout
MOST = 1 << 24  # characters of a text that are read


class RunStore:
    """Texts by key under a run's name; every access raises PeerLostError when the store was lost."""

    def __init__(self, tcp_store: Any, run: str, address: str) -> None:
        self._tcp, self._run, self.address = tcp_store, run, address
        self._store: Any = dist.PrefixStore(f"fewbits/elastic/{run}", tcp_store)  # pyright: ignore[reportPrivateImportUsage] - it is documented

    @staticmethod
    def connect(store: Any, run: str, timeout: float) -> RunStore:
        """A connection of our own, so that no call waits for the program's; PeerLostError when nothing answers."""
        kind: Any = dist.TCPStore  # pyright: ignore[reportPrivateImportUsage] - it is documented
        host, port = address_of(store) if isinstance(store, str) else (store.host, store.port)
        wait = timedelta(seconds=timeout)

        def connected() -> Any:
            return kind(host, port, None, False, wait, wait_for_workers=False)

        try:
            return RunStore(in_background(connected, timeout + CONNECT_MARGIN)(), run, f"{host}:{port}")
        except (RuntimeError, TimeoutError):  # torch's errors are subclasses of the first
            raise PeerLostError(f"no store answers at {host}:{port} within {timeout:g} s; host one there") from None

    def clone(self) -> RunStore:
        """Another connection, for another thread: calls on one connection wait for each other."""
        with self._access():
            return RunStore(self._tcp.clone(), self._run, self.address)

    def group_store(self, name: str) -> Any:
        """A store for a process group of this name, with a connection of its own."""
        with self._access():
            return dist.PrefixStore(f"fewbits/elastic/{self._run}/group/{name}", self._tcp.clone())  # pyright: ignore[reportPrivateImportUsage] - it is documented

    def set(self, key: str, text: str) -> None:
        """Write a text, or replace it."""
        with self._access():
            self._store.set(key, text)

    def get(self, key: str) -> str | None:
        """The text of a key; None where it has none."""
        with self._access():
            if not self._store.check([key]):
                return None
            return self._store.multi_get([key])[0][:MOST].decode(errors="replace")

    def get_all(self, keys: list[str]) -> list[str]:
        """The texts of keys that all exist."""
        with self._access():
            return [text[:MOST].decode(errors="replace") for text in self._store.multi_get(keys)]

    def swap(self, key: str, old: str, new: str) -> str:
        """Write a text where the key has `old`, or has none and `old` is ""; returns the key's text after that."""
        with self._access():
            return self._store.compare_set(key, old, new).decode(errors="replace")

    def count(self, key: str, by: int = 1) -> int:
        """Add to a counter; returns its value."""
        with self._access():
            return self._store.add(key, by)

    def forget(self, *keys: str) -> None:
        """Remove keys that nobody will read any more."""
        with self._access():
            for key in keys:
                self._store.delete_key(key)

    @contextmanager
    def _access(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, FewbitsError):
                raise
            raise PeerLostError(f"the store at {self.address}, where the ranks meet, was lost") from None
