"""BitReader: the counterpart of BitWriter; every length is checked before memory is allocated."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from fewbits.errors import WireError
from fewbits.wire.passage import Passage
from fewbits.wire.writer import Section, Sectioning


class BitReader:
    """Read a payload once, from front to back, most significant bit first.

    Args:
        data: the payload.
        lent: values may be writable views of `data`; they must be used before `data` is used again.

    Example:
        >>> src = BitReader(bytes([0b10100000]))
        >>> src.read(3), src.bits
        (5, 3)
        >>> src.finish()
    """

    def __init__(self, data: bytes | bytearray | memoryview | np.ndarray, lent: bool = False) -> None:
        self._data = np.frombuffer(data, dtype=np.uint8)
        if not lent:
            self._data.flags.writeable = False  # a caller that stores a view must copy it
        self._at, self._end = 0, 8 * len(self._data)  # in bits
        self._aligned: list[int] = []  # where `align` was called
        self.names: list[str] = []  # of the open sections
        self.sections: list[Section] = []

    @property
    def bits(self) -> int:
        """Bits read so far."""
        return self._at

    @property
    def remaining(self) -> int:
        """Bits left, including the zero fill of the last byte."""
        return self._end - self._at

    def need(self, nbits: int, what: str) -> None:
        """Raise WireError unless `nbits` more bits are left."""
        if nbits < 0:
            raise WireError(f"payload claims a length below zero: {what} needs {nbits} bits at bit {self._at}")
        if nbits > self.remaining:
            raise WireError(
                f"payload ends too early: {what} needs {nbits} bits at bit {self._at}, {self.remaining} are left"
            )

    def read(self, nbits: int) -> int:
        """Read `nbits` bits as an unsigned integer."""
        nbits = int(nbits)
        if not 0 <= nbits <= self._end - self._at:
            self.need(nbits, "a field")
        first, last = self._at // 8, -(-(self._at + nbits) // 8)
        word = int.from_bytes(self._data[first:last].tobytes(), "big")
        self._at += nbits
        return (word >> (8 * last - self._at)) & ((1 << nbits) - 1)

    def align(self) -> None:
        """Skip to the next whole byte; WireError unless the skipped bits are zero."""
        self._aligned.append(self._at)
        if self._at % 8 and self.read(-self._at % 8):
            raise WireError(f"padding before bit {self._at} is not zero")

    def read_bytes(self, n: int) -> np.ndarray:
        """Align, then read n bytes as a view, not a copy.  # (n,) uint8"""
        n = int(n)  # a NumPy integer could overflow in 8 * n and pass the check
        self.align()
        self.need(8 * n, f"a block of {n} bytes")
        start = self._at // 8
        self._at += 8 * n
        return self._data[start : start + n]

    def rest(self) -> np.ndarray:
        """Return all whole bytes left without reading them, for decoders that find their own end.  # (m,) uint8"""
        self.align()
        return self._data[self._at // 8 :]

    def skip(self, nbits: int) -> None:
        """Skip `nbits` bits that a decoder took from `rest`."""
        self.need(nbits, "a block")
        self._at += nbits

    def passage(self, start: int) -> Passage:
        """What was read since `bits` was `start`, for `BitWriter.repeat`."""
        aligned = next((at for at in self._aligned[bisect_left(self._aligned, start) :]), None)
        first = start // 8
        shift, data = 8 * first, self._data[first : -(-self._at // 8)].tobytes()
        return Passage.of(data, start - shift, self._at - shift, None if aligned is None else aligned - shift)

    def section(self, name: str) -> Sectioning:
        """Record where the bits that are read inside `with` begin and end."""
        return Sectioning(self, name)

    def finish(self) -> None:
        """Raise WireError unless all bits were read and the fill is zero."""
        self.align()
        if self.remaining:
            raise WireError(f"payload is too long: {self.remaining} bits follow its end at bit {self._at}")
