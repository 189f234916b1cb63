"""Memory that processes share: SharedRing takes a worker's frames to the server, SharedBuffer orders to all workers.

A pipe moves 64 KiB at a time and wakes both ends for each; a dense frame is megabytes.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from multiprocessing.context import BaseContext

MARGIN = 64 * 1024  # bytes beyond the dense size: headers and side information


class SharedBuffer:
    """One order to all workers. Make it before forking; write when all have done the last order."""

    def __init__(self, dense_bytes: int) -> None:
        """`dense_bytes`: size of an uncompressed model; what is far beyond it must go another way."""
        self._size = dense_bytes + MARGIN
        self._memory = mmap.mmap(-1, self._size)

    def put(self, data: bytes) -> int | None:
        """The server: write, and return the length; None when it does not fit."""
        if len(data) > self._size:
            return None
        self._memory[: len(data)] = data
        return len(data)

    def read(self, length: int) -> bytes:
        """A worker: what was written."""
        return self._memory[:length]


class SharedRing:
    """A ring of slots. Make it before forking; the worker puts, the server views and frees, both in the same order."""

    def __init__(self, context: BaseContext, dense_bytes: int, slots: int) -> None:
        """`dense_bytes`: size of an uncompressed update; a frame far beyond it must go another way.

        `slots`: frames that the worker may be ahead of the server.
        """
        self._size, self._slots = dense_bytes + MARGIN, slots
        self._memory = mmap.mmap(-1, slots * self._size)  # pages are only taken when they are written
        self._free = context.Semaphore(slots)
        self._next = 0
        self._parent = os.getpid()

    def fits(self, size: int) -> bool:
        """Whether a slot holds a frame of so many bytes."""
        return size <= self._size

    def put(self, pieces: Sequence[bytes | memoryview]) -> int | None:
        """The worker: copy a frame into the next slot and return its number; None when it does not fit."""
        if not self.fits(sum(map(len, pieces))):
            return None
        while not self._free.acquire(timeout=1.0):
            if os.getppid() != self._parent:
                raise BrokenPipeError("the parent is gone")
        slot, self._next = self._next, (self._next + 1) % self._slots
        at = slot * self._size
        for piece in pieces:
            self._memory[at : at + len(piece)] = piece
            at += len(piece)
        return slot

    def view(self, slot: int, length: int) -> memoryview:
        """The server: a frame, valid until `free`."""
        return memoryview(self._memory)[slot * self._size : slot * self._size + length]

    def free(self) -> None:
        """The server: the oldest frame viewed is no longer needed."""
        self._free.release()

    def abandon(self) -> None:
        """The server: no frame is needed any more; a worker that waits for room may go on."""
        for _ in range(self._slots):
            self._free.release()
