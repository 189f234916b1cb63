"""in_time: the result of a call to torch that may never return."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_time(work: Callable[[], T], timeout: float) -> T:
    """work(), or TimeoutError after `timeout` seconds; the thread of a call that never returns ends with the process.

    >>> in_time(lambda: 3, 1.0)
    3
    """
    results: queue.SimpleQueue[tuple[list[T], Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put(([work()], None))
        except RuntimeError as error:  # torch raises subclasses of it
            results.put(([], error))

    threading.Thread(target=run, daemon=True).start()
    try:
        values, error = results.get(timeout=timeout)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return values[0]
