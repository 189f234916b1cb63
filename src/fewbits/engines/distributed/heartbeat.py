"""Heartbeat: a thread that puts this node's signs of life on the board and reads the others'."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from fewbits.engines.distributed.process_info import ProcessInfo
from fewbits.engines.distributed.rendezvous import RendezvousStore, until
from fewbits.errors import PeerLostError

GRACE = 3.0  # seconds for a node to end by itself, and for last words to come after a SIGTERM
EVERY = 1.0  # seconds between two signs of life, at most


class Heartbeat:
    """Signs of life, and last words: of a node that has given none for `patience` seconds, they are said here."""

    def __init__(self, board: RendezvousStore, place: ProcessInfo, patience: float) -> None:
        self._board, self._place, self._patience = board.another(), place, patience
        self._every = min(EVERY, patience / 5)
        self._names = [_life(rank) for rank in range(place.size)]
        self._stop, self._hurry = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="fewbits-life", daemon=True)
        self._beats = 0
        self.progress = 0  # how far the main thread is; others see it
        self.answered = time.monotonic()  # when the board did last
        self.words: str | None = None  # the run's last ones, once they are said
        self._beat()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, but for a thread that waits for a board which no longer answers: it ends with the process."""
        self._stop.set()
        self._hurry.set()
        self._thread.join(GRACE)

    def reported(self) -> None:
        """This process was told to stop (SIGTERM): find out why; `words` will say."""
        self._hurry.set()

    def linger(self) -> None:
        """Before this process ends: if it holds the store, let the others read the last words first."""
        names = [out(rank) for rank in range(self._place.size)]
        if self.words is not None and self._place.hosts:
            with suppress(PeerLostError):
                until(lambda: self._board.has(*names), GRACE)

    def laggard(self, board: RendezvousStore) -> int:
        """The other node that has come the least far: the one that all are waiting for."""
        progress = {rank: int(text.split()[1]) for rank, text in enumerate(board.read(self._names))}
        del progress[self._place.rank]
        return min(progress, key=lambda rank: (progress[rank], rank))

    def _beat(self) -> None:
        self._beats += 1
        self._board.post(_life(self._place.rank), f"{self._beats} {self.progress}")

    def _run(self) -> None:
        heard = self._nothing_heard()
        try:
            while self.words is None and not self._stop.is_set():
                self._beat()
                heard = self._listen(heard)
                if self._hurry.wait(self._every) and not self._stop.is_set():
                    self._find_why()
                self.words, self.answered = self._board.words, time.monotonic()
            if self.words is not None:
                self._board.post(out(self._place.rank), "")
        except PeerLostError as error:
            self.words = self.words or str(error)

    def _listen(self, heard: list[tuple[str, float]]) -> list[tuple[str, float]]:
        """Everybody's last sign and when it came; says so when one has been silent for too long."""
        if not self._board.has(*self._names):  # the handshake looks after those that have not come
            return self._nothing_heard()
        now, texts = time.monotonic(), self._board.read(self._names)
        heard = [before if before[0] == text else (text, now) for before, text in zip(heard, texts, strict=True)]
        for rank, (_, when) in enumerate(heard):
            if now - when > self._patience and not self._board.has(left(rank)):
                self._board.say(f"node {rank} is gone: it has given no sign of life for {self._patience:g} s")
        return heard

    def _nothing_heard(self) -> list[tuple[str, float]]:
        return [("", time.monotonic())] * self._place.size

    def _find_why(self) -> None:
        """torchrun ends the others when one has died. Name those who have neither been told to stop nor live."""
        board = self._board
        board.post(_reported(self._place.rank), "")
        before, last = self._signs(), time.monotonic() + GRACE
        while board.words is None and time.monotonic() < last and not self._stop.wait(self._every / 10):
            self._beat()
        after = self._signs()
        silent = [rank for rank in range(self._place.size) if before[rank] == after[rank]]
        dead = ", ".join(str(rank) for rank in silent if not board.has(_reported(rank)) and not board.has(left(rank)))
        board.say(f"node {dead} died without a word" if dead else "the nodes were told to stop (SIGTERM)")

    def _signs(self) -> list[str]:
        """Everybody's last sign of life; "" of those that have not come."""
        return [self._board.read([name])[0] if self._board.has(name) else "" for name in self._names]


def left(rank: int) -> str:
    """The name under which a node says that it has come to the end."""
    return f"left/{rank}"


def out(rank: int) -> str:
    """The name under which a node says that it needs the board no more."""
    return f"out/{rank}"


def by_hand(rank: int) -> str:
    """Last words after Ctrl-C."""
    return f"node {rank} was stopped by hand"


def _life(rank: int) -> str:
    return f"life/{rank}"


def _reported(rank: int) -> str:
    return f"told/{rank}"
