"""Liveness: a thread that writes this process's heartbeats to the store and watches those of others."""

from __future__ import annotations

import threading
import time

from fewbits.engines.distributed.elastic.run_store import RunStore
from fewbits.errors import PeerLostError

INTERVAL = 1.0  # seconds between two heartbeats, at most
GRACE = 3.0  # seconds for the thread to end


class Liveness:
    """Which members have a heartbeat. The first one is written before anybody can know of this member.

    Args:
        store: of the run; the thread has a connection of its own.
        member: number of this process in the run.
        timeout: seconds without a heartbeat after which a member counts as lost.
    """

    def __init__(self, store: RunStore, member: int, timeout: float) -> None:
        self._store, self._member, self._timeout = store.clone(), member, timeout
        self._seen: dict[int, tuple[str, float]] = {}  # last heartbeat, and when it changed, by member
        self._watched: frozenset[int] = frozenset()
        self._beats, self._answered = 0, time.monotonic()
        self._failure = ""  # why the thread has ended
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fewbits-liveness", daemon=True)
        self._beat()
        self._thread.start()

    def watch(self, *members: int) -> None:
        """Watch these, too; they must have written a heartbeat."""
        self._watched |= {*members} - {self._member}

    def lost(self, member: int) -> bool:
        """Whether a watched member has been silent for too long."""
        seen = self._seen.get(member)
        return seen is not None and self._answered - seen[1] > self._timeout

    def beats(self, member: int) -> str:
        """The last heartbeat of a watched member; "" before it was read."""
        return self._seen.get(member, ("", 0.0))[0]

    def check(self) -> None:
        """PeerLostError when the store no longer answers."""
        if self._failure:
            raise PeerLostError(self._failure)
        if not self._stop.is_set() and time.monotonic() - self._answered > self._timeout + GRACE:
            raise PeerLostError(f"the store at {self._store.address}, where the ranks meet, no longer answers")

    def stop(self) -> None:
        """End the thread; one that waits for a lost store ends with the process."""
        self._stop.set()
        self._thread.join(GRACE)

    def _run(self) -> None:
        try:
            while not self._stop.wait(min(INTERVAL, self._timeout / 5)):
                self._beat()
                self._look()
        except PeerLostError as error:
            self._failure = str(error)

    def _beat(self) -> None:
        self._beats += 1
        self._store.set(beat(self._member), str(self._beats))

    def _look(self) -> None:
        members = sorted(self._watched)
        texts = self._store.get_all([beat(member) for member in members]) if members else []
        now = time.monotonic()
        if now - self._answered > self._timeout:  # this process or the store had stopped: nobody else was silent
            self._seen = {}
        found = dict(zip(members, texts, strict=True))
        same = {member for member, text in found.items() if self._seen.get(member, ("", 0.0))[0] == text}
        self._seen = {m: self._seen[m] if m in same else (text, now) for m, text in found.items()}
        self._answered = now


def beat(member: int) -> str:
    """The key of a member's heartbeats."""
    return f"beat/{member}"
