"""Watchdog: a thread that ends this process when the run is over and the main thread does not see it.

The main thread may be in a wait inside torch that no signal and no Python can end. So once somebody has said that the
run is over, it is given a moment to find out by itself, and then the process ends: nothing hangs for ever.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time

from fewbits.engines.distributed import heartbeat
from fewbits.engines.distributed.heartbeat import Heartbeat, by_hand
from fewbits.engines.distributed.process_info import ProcessInfo

FAILED = 1  # exit code
LOOK = 0.25  # seconds


class Watchdog:
    """From `start` to `stop`, this process ends soon after the run has; SIGTERM makes it say why."""

    def __init__(self, watched: Heartbeat, place: ProcessInfo, patience: float) -> None:
        self._life, self._place, self._patience = watched, place, patience
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fewbits-guard", daemon=True)
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self._before: object = None

    def start(self) -> None:
        """Begin; takes over SIGTERM when this is the main thread."""
        if threading.current_thread() is threading.main_thread():
            self._wake = socket.socketpair()
            self._wake[1].setblocking(False)
            signal.set_wakeup_fd(self._wake[1].fileno())  # written even while the main thread waits inside torch
            self._before = signal.signal(signal.SIGTERM, lambda *_: None)
        self._thread.start()

    def stop(self) -> None:
        """End; SIGTERM is again what it was."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._wake:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, self._before)  # pyright: ignore[reportArgumentType] - it is what signal() gave
        self._thread.join()
        for end in self._wake or ():
            end.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            came = self._signals()
            if signal.SIGTERM in came:
                self._life.reported()
                self._end("the nodes were told to stop (SIGTERM)", 128 + signal.SIGTERM, 2 * heartbeat.GRACE)
            elif signal.SIGINT in came:  # Python raises KeyboardInterrupt, if the main thread gets as far as Python
                self._end(by_hand(self._place.rank), 128 + signal.SIGINT, heartbeat.GRACE)
            elif self._life.words is not None:
                self._end(self._life.words, FAILED, heartbeat.GRACE)
            elif time.monotonic() - self._life.answered > self._patience + heartbeat.GRACE:
                self._end(f"{self._place.store} no longer answers", FAILED, 0)

    def _signals(self) -> bytes:
        """The numbers of those that have come, after a short wait."""
        if self._wake is None:
            self._stop.wait(LOOK)
            return b""
        ready, _, _ = select.select([self._wake[0]], [], [], LOOK)
        return self._wake[0].recv(64) if ready else b""

    def _end(self, words: str, code: int, grace: float) -> None:
        """End the process in `grace` seconds, or after a SIGTERM as soon as it is known why."""
        until = time.monotonic() + grace
        while time.monotonic() < until and (code == FAILED or self._life.words is None):
            if self._stop.wait(LOOK / 5):
                return
        if not self._stop.is_set():
            self._life.linger()
            print(f"fewbits: node {self._place.rank}: {self._life.words or words}", file=sys.stderr, flush=True)
            os._exit(code)
