"""Slots: large blobs in a file of their own, so that a database holds only where they are."""

from __future__ import annotations

import os
from bisect import insort
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fewbits.errors import FewbitsError
from fewbits.files import placed

BLOCK = 4096  # bytes; slots are whole blocks
Piece = bytes | memoryview


class Slot(NamedTuple):
    """Where a blob is, in bytes."""

    at: int
    size: int

    @property
    def end(self) -> int:
        return self.at + -(-self.size // BLOCK) * BLOCK

    @property
    def text(self) -> str:
        """As a database keeps it."""
        return f"{self.at}+{self.size}"

    @staticmethod
    def parse(text: str) -> Slot:
        at, size = text.split("+")
        return Slot(int(at), int(size))


class Slots:
    """One file of blobs. One process writes it; a slot that was given back may hold another blob after that."""

    def __init__(self, path: Path, write: bool) -> None:
        """The file is made with the first blob."""
        self._path, self._file = path, -1
        self._how = os.O_RDWR | os.O_CREAT if write else os.O_RDONLY
        self._free: list[tuple[int, int]] = []  # [start, end) in bytes, ascending, none touches the next
        self._end, self._written = 0, False

    def take_stock(self, used: Iterable[Slot]) -> None:
        """Before writing: all but these slots is free."""
        self._free, self._end = [], 0
        for slot in sorted(used):
            if slot.at > self._end:
                self._free.append((self._end, slot.at))
            self._end = max(self._end, slot.end)

    def write(self, pieces: Sequence[Piece]) -> Slot:
        """Write a blob, given in pieces, into the first room for it."""
        slot = self._room(sum(map(len, pieces)))
        with placed(self._path):
            self._open()
            at, left = slot.at, [memoryview(piece).cast("B") for piece in pieces if len(piece)]
            while left:
                done = os.pwritev(self._file, left[:64], at)
                at += done
                while left and done >= len(left[0]):
                    done -= len(left.pop(0))
                if done:
                    left[0] = left[0][done:]
        self._written = True
        return slot

    def _room(self, size: int) -> Slot:
        need = Slot(0, size).end
        for i, (start, end) in enumerate(self._free):
            if end - start >= need:
                self._free[i : i + 1] = [(start + need, end)] if end - start > need else []
                return Slot(start, size)
        slot = Slot(self._end, size)
        self._end = slot.end
        return slot

    def read(self, slot: Slot, head: bytes = b"") -> memoryview:
        """`head`, then the blob, in fresh memory that may be written to."""
        found = np.empty(len(head) + slot.size, np.uint8).data
        found[: len(head)] = head
        with placed(self._path):
            self._open()
            at = 0
            while at < slot.size:
                done = os.preadv(self._file, [found[len(head) + at :]], slot.at + at)
                if not done:
                    raise FewbitsError(f"{self._path}: it ends before byte {slot.at + slot.size}, so it is damaged")
                at += done
        return found

    def give_back(self, slots: Iterable[Slot]) -> None:
        """Nobody will read these slots any more."""
        for slot in slots:
            insort(self._free, (slot.at, slot.end))
        merged: list[tuple[int, int]] = []
        for start, end in self._free:
            if merged and merged[-1][1] == start:
                merged[-1] = (merged[-1][0], end)
            else:
                merged.append((start, end))
        self._free = merged

    def sync(self) -> None:
        """Wait until what was written is on disk."""
        if self._written:
            with placed(self._path):
                os.fsync(self._file)
            self._written = False

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _open(self) -> None:
        if self._file < 0:
            self._file = os.open(self._path, self._how)
