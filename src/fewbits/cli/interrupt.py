"""Interrupt: while rounds are played, the first Ctrl-C asks for a stop after this round, the second ends at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from types import FrameType

from fewbits.ctrl_c import STOP
from fewbits.engines.common.processes import WORKER

SENTENCE = b"\nFinishing this round; press Ctrl-C again to abort at once.\n"


class Interrupt:
    """In this context the first SIGINT sets `asked`; the second ends the workers and this process.

    Such a run can be resumed, too: from its last checkpoint instead of its last round.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: object = None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._before)  # pyright: ignore[reportArgumentType] - it is what signal() gave

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            for child in multiprocessing.active_children():
                if child.name.startswith(WORKER):
                    child.kill()
            STOP.now()
        self.asked = True
        os.write(2, SENTENCE)  # not print: the main thread may be printing
