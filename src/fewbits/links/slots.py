"""Slots: large blobs in a file of their own, so that a database holds only where they are."""

from __future__ import annotations

import os
import re
from bisect import insort
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from isal.isal_zlib import crc32

from fewbits.errors import LocalError
from fewbits.files import placed, sync

BLOCK = 4096  # bytes; slots are whole blocks
Piece = bytes | memoryview


class Slot(NamedTuple):
    """Where a blob is, in bytes, and its CRC-32."""

    at: int
    size: int
    crc: int = 0

    @property
    def end(self) -> int:
        return self.at + -(-self.size // BLOCK) * BLOCK

    @property
    def text(self) -> str:
        """As a database keeps it."""
        return f"{self.at}+{self.size}+{self.crc}"


class Slots:
    """One file of blobs. One process writes it; a slot that was given back may hold another blob after that."""

    def __init__(self, path: Path, write: bool) -> None:
        """The file is made with the first blob."""
        self._path, self._file = path, -1
        self._how = os.O_RDWR if write else os.O_RDONLY
        self._free: list[tuple[int, int]] = []  # [start, end) in bytes, ascending, none touches the next
        self._end, self._written, self._synced = 0, False, False

    def parse(self, text: str) -> Slot:
        """What `Slot.text` gave; LocalError for anything else."""
        if not re.fullmatch(r"[0-9]{1,18}(\+[0-9]{1,18}){2}", text, re.ASCII):
            raise LocalError(f"{self._path}: the database says {text[:60]!r} where a state is; it is damaged")
        return Slot(*map(int, text.split("+")))

    def take_stock(self, used: Iterable[str]) -> None:
        """Before writing: all but these slots is free."""
        self._free, self._end = [], 0
        for slot in sorted(map(self.parse, used)):
            if slot.at > self._end:
                self._free.append((self._end, slot.at))
            self._end = max(self._end, slot.end)

    def write(self, pieces: Sequence[Piece]) -> Slot:
        """Write a blob, given in pieces, into the first room for it."""
        slot = self._room(sum(map(len, pieces)))
        try:
            return slot._replace(crc=self._write(slot.at, [memoryview(piece).cast("B") for piece in pieces]))
        except BaseException:
            self.give_back([slot.text])
            raise

    def _write(self, at: int, pieces: Iterable[memoryview]) -> int:
        """Write the pieces one behind the other; returns their CRC-32."""
        left, crc = [piece for piece in pieces if len(piece)], 0
        for piece in left:
            crc = crc32(piece, crc)
        with placed(self._path):
            self._open(os.O_CREAT)
            self._written = True
            while left:
                done = os.pwritev(self._file, left[:64], at)
                at += done
                while left and done >= len(left[0]):
                    done -= len(left.pop(0))
                if done:
                    left[0] = left[0][done:]
        return crc

    def _room(self, size: int) -> Slot:
        need = Slot(0, size).end
        for i, (start, end) in enumerate(self._free):
            if end - start >= need:
                self._free[i : i + 1] = [(start + need, end)] if end - start > need else []
                return Slot(start, size)
        slot = Slot(self._end, size)
        self._end = slot.end
        return slot

    def read(self, text: str, head: bytes = b"") -> memoryview:
        """`head`, then the blob, in fresh memory that may be written to.

        Raises:
            LocalError: the file is missing, too short, or holds other bytes than those that were written.
        """
        slot, at = self.parse(text), 0
        with placed(self._path):
            try:
                self._open()
            except FileNotFoundError:
                raise LocalError(f"{self._path} is missing: it holds states of the database beside it") from None
            if os.fstat(self._file).st_size < slot.at + slot.size:  # before there is memory for it
                raise LocalError(f"{self._path}: it ends before byte {slot.at + slot.size}, so it is damaged")
            found = np.empty(len(head) + slot.size, np.uint8).data
            found[: len(head)] = head
            blob = found[len(head) :]
            while at < slot.size and (done := os.preadv(self._file, [blob[at:]], slot.at + at)):
                at += done
        if (crc := crc32(blob)) != slot.crc:
            raise LocalError(
                f"{self._path}: checksum of the state at byte {slot.at} is {slot.crc:08X}, its {slot.size} bytes give "
                f"{crc:08X}: it is damaged"
            )
        return found

    def give_back(self, slots: Iterable[str]) -> None:
        """Nobody will read these slots any more."""
        for slot in map(self.parse, slots):
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
                if not self._synced:
                    sync(self._path.parent)  # its name
            self._written, self._synced = False, True

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _open(self, make: int = 0) -> None:
        if self._file < 0:
            self._file = os.open(self._path, self._how | make)
