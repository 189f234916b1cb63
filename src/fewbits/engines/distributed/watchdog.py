"""Watchdog: a thread that ends this process when the run has failed and the main thread does not notice.

The main thread may wait inside torch, where neither a signal nor Python can end it. Once a failure is reported, it has
a moment to end by itself; then the watchdog ends the process. No process hangs for ever.
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
from fewbits.engines.distributed.heartbeat import Heartbeat, interrupted
from fewbits.engines.distributed.process_info import ProcessInfo

FAILED = 1  # exit code
INTERVAL = 0.25  # seconds between two checks


class Watchdog:
    """From `start` to `stop`, this process ends soon after a failure; after SIGTERM it prints the failure reason."""

    def __init__(self, watched: Heartbeat, process: ProcessInfo, timeout: float) -> None:
        self._heartbeat, self._process, self._timeout = watched, process, timeout
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fewbits-watchdog", daemon=True)
        self._wakeup: tuple[socket.socket, socket.socket] | None = None
        self._previous_handler: object = None

    def start(self) -> None:
        """Start the thread; in the main thread, also handle SIGTERM."""
        if threading.current_thread() is threading.main_thread():
            self._wakeup = socket.socketpair()
            self._wakeup[1].setblocking(False)
            signal.set_wakeup_fd(self._wakeup[1].fileno())  # written even while the main thread waits inside torch
            self._previous_handler = signal.signal(signal.SIGTERM, lambda *_: None)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and restore the handler of SIGTERM."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._wakeup:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, self._previous_handler)  # pyright: ignore[reportArgumentType] - from signal()
        self._thread.join()
        for end in self._wakeup or ():
            end.close()

    def _run(self) -> None:
        watched = self._heartbeat
        while not self._stop.is_set():
            signals = self._signals()
            if signal.SIGTERM in signals:
                watched.on_sigterm()
                self._end("the nodes were stopped by SIGTERM", 128 + signal.SIGTERM, 2 * heartbeat.GRACE)
            elif signal.SIGINT in signals:  # Python raises KeyboardInterrupt if the main thread runs Python code
                self._end(interrupted(self._process.rank), 128 + signal.SIGINT, heartbeat.GRACE)
            elif watched.failure is not None:
                self._end(watched.failure, FAILED, heartbeat.GRACE)
            elif time.monotonic() - watched.last_answer > self._timeout + heartbeat.GRACE:
                self._end(f"{self._process.store_owner} no longer answers", FAILED, 0)

    def _signals(self) -> bytes:
        """The numbers of new signals, after a short wait."""
        if self._wakeup is None:
            self._stop.wait(INTERVAL)
            return b""
        ready, _, _ = select.select([self._wakeup[0]], [], [], INTERVAL)
        return self._wakeup[0].recv(64) if ready else b""

    def _end(self, reason: str, code: int, grace: float) -> None:
        """End the process in `grace` seconds; after a signal, as soon as the failure reason is known."""
        end = time.monotonic() + grace
        while time.monotonic() < end and (code == FAILED or self._heartbeat.failure is None):
            if self._stop.wait(INTERVAL / 5):
                return
        if not self._stop.is_set():
            self._heartbeat.await_readers()
            reason = self._heartbeat.failure or reason
            print(f"fewbits: node {self._process.rank}: {reason}", file=sys.stderr, flush=True)
            os._exit(code)
