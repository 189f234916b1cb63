"""Heartbeat: a thread that writes this node's heartbeats to the store and watches the others'."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from fewbits.engines.distributed.process_info import ProcessInfo
from fewbits.engines.distributed.rendezvous import RendezvousStore, wait_until
from fewbits.errors import PeerLostError

GRACE = 3.0  # seconds for a node to end by itself, and for a failure reason to arrive after a SIGTERM
INTERVAL = 1.0  # seconds between two heartbeats, at most


class Heartbeat:
    """Writes heartbeats; reports a node as lost when it has written none for `timeout` seconds."""

    def __init__(self, store: RendezvousStore, process: ProcessInfo, timeout: float) -> None:
        self._store, self._process, self._timeout = store.clone(), process, timeout
        self._interval = min(INTERVAL, timeout / 5)
        self._keys = [_heartbeat(rank) for rank in range(process.size)]
        self._stop, self._interrupted = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="fewbits-heartbeat", daemon=True)
        self._count = 0
        self.progress = 0  # of the main thread; the others read it
        self.last_answer = time.monotonic()  # when the store answered last
        self.failure: str | None = None  # the run's failure reason
        self._beat()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; one that waits for a lost store ends with the process."""
        self._stop.set()
        self._interrupted.set()
        self._thread.join(GRACE)

    def on_sigterm(self) -> None:
        """Look for the reason of a SIGTERM to this process; `failure` will state it."""
        self._interrupted.set()

    def await_readers(self) -> None:
        """Before this process ends: if it runs the store, wait until the others have read the failure reason."""
        keys = [disconnected(rank) for rank in range(self._process.size)]
        if self.failure is not None and self._process.runs_store:
            with suppress(PeerLostError):
                wait_until(lambda: self._store.has(*keys), GRACE)

    def slowest(self, store: RendezvousStore) -> int:
        """The other node with the least progress: all nodes wait for it."""
        progress = {rank: int(text.split()[1]) for rank, text in enumerate(store.get(self._keys))}
        del progress[self._process.rank]
        return min(progress, key=lambda rank: (progress[rank], rank))

    def _beat(self) -> None:
        self._count += 1
        self._store.set(_heartbeat(self._process.rank), f"{self._count} {self.progress}")

    def _run(self) -> None:
        seen = self._nothing_seen()
        try:
            while self.failure is None and not self._stop.is_set():
                self._beat()
                seen = self._watch(seen)
                if self._interrupted.wait(self._interval) and not self._stop.is_set():
                    self._find_reason()
                self.failure, self.last_answer = self._store.failure, time.monotonic()
            if self.failure is not None:
                self._store.set(disconnected(self._process.rank), "")
        except PeerLostError as error:
            self.failure = self.failure or str(error)

    def _watch(self, seen: list[tuple[str, float]]) -> list[tuple[str, float]]:
        """Every node's last heartbeat and when it changed; reports a node whose heartbeat is too old."""
        if not self._store.has(*self._keys):  # the handshake reports nodes that have not joined
            return self._nothing_seen()
        now, texts = time.monotonic(), self._store.get(self._keys)
        seen = [before if before[0] == text else (text, now) for before, text in zip(seen, texts, strict=True)]
        for rank, (_, when) in enumerate(seen):
            if now - when > self._timeout and not self._store.has(finished(rank)):
                self._store.report_failure(f"node {rank} was lost: no heartbeat for {self._timeout:g} s")
        return seen

    def _nothing_seen(self) -> list[tuple[str, float]]:
        return [("", time.monotonic())] * self._process.size

    def _find_reason(self) -> None:
        """Report nodes without a heartbeat and without a SIGTERM: torchrun ends all others when one node has died."""
        store = self._store
        store.set(_sigterm(self._process.rank), "")
        before, end = self._heartbeats(), time.monotonic() + GRACE
        while store.failure is None and time.monotonic() < end and not self._stop.wait(self._interval / 10):
            self._beat()
        after = self._heartbeats()
        silent = [rank for rank in range(self._process.size) if before[rank] == after[rank]]
        dead = ", ".join(
            str(rank) for rank in silent if not store.has(_sigterm(rank)) and not store.has(finished(rank))
        )
        store.report_failure(f"node {dead} died without a reason" if dead else "the nodes were stopped by SIGTERM")

    def _heartbeats(self) -> list[str]:
        """Every node's last heartbeat; "" for nodes that have not joined."""
        return [self._store.get([key])[0] if self._store.has(key) else "" for key in self._keys]


def finished(rank: int) -> str:
    """The key that a node sets at the end of its run."""
    return f"finished/{rank}"


def disconnected(rank: int) -> str:
    """The key that a node sets when it no longer needs the store."""
    return f"disconnected/{rank}"


def interrupted(rank: int) -> str:
    """The failure reason after Ctrl-C."""
    return f"node {rank} was interrupted (Ctrl-C)"


def _heartbeat(rank: int) -> str:
    return f"heartbeat/{rank}"


def _sigterm(rank: int) -> str:
    return f"sigterm/{rank}"
