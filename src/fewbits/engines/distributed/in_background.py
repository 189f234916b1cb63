"""in_background: a call in a thread of its own, whose result is asked for later."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_background(work: Callable[[], T], timeout: float | None = None) -> Callable[[], T]:
    """Start work(); what waits for its result, and raises what it raised, whenever it is asked.

    TimeoutError when that takes more than `timeout` seconds. The thread of a call that never returns ends with the
    process.

    >>> in_background(lambda: 3)()
    3
    """
    results: queue.SimpleQueue[tuple[list[T], Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put(([work()], None))
        except Exception as error:  # noqa: BLE001 - whoever asks for the result gets it
            results.put(([], error))

    threading.Thread(target=run, name="fewbits-background", daemon=True).start()

    done: list[tuple[list[T], Exception | None]] = []

    def result() -> T:
        try:
            done[:] = done or [results.get(timeout=timeout)]
        except queue.Empty:
            raise TimeoutError from None
        values, error = done[0]
        if error is not None:
            raise error
        return values[0]

    return result
