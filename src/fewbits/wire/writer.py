"""BitWriter: write bits, most significant first; each method has its counterpart in reader.py."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple, Protocol

import numpy as np

from fewbits.errors import LocalError
from fewbits.wire.passage import Passage


class Section(NamedTuple):
    """A named range of a payload, for ledgers and for `fewbits inspect`."""

    name: str  # path of nested names, joined by "/"
    start: int  # in bits from the start of the payload
    stop: int  # in bits, exclusive


class Sectioned(Protocol):
    """A writer or a reader that records sections."""

    names: list[str]  # of the open sections
    sections: list[Section]  # the closed sections

    @property
    def bits(self) -> int:
        """Bits written or read so far."""
        ...


class Sectioning:
    """Context manager of one section of a writer or a reader."""

    __slots__ = ("_name", "_of", "_start")

    def __init__(self, of: Sectioned, name: str) -> None:
        self._of, self._name, self._start = of, name, 0

    def __enter__(self) -> None:
        self._start = self._of.bits
        self._of.names.append(self._name)

    def __exit__(self, *_: object) -> None:
        of = self._of
        of.sections.append(Section("/".join(of.names), self._start, of.bits))
        of.names.pop()


class BitWriter:
    """Collect the bits of a payload, most significant bit first.

    Small integers go through an accumulator; arrays are appended as whole bytes after `align`.

    Example:
        >>> out = BitWriter()
        >>> out.write(5, 3)
        >>> out.bits, out.finish().hex()
        (3, 'a0')
    """

    def __init__(self) -> None:
        self._chunks: list[bytes | memoryview] = []
        self._bytes = 0  # bytes in _chunks
        self._pending = 0  # bits not yet in a chunk, as an integer
        self._pending_bits = 0
        self._aligned: list[int] = []  # where `align` was called, in bits
        self.names: list[str] = []  # of the open sections
        self.sections: list[Section] = []

    @property
    def bits(self) -> int:
        """Bits written so far."""
        return 8 * self._bytes + self._pending_bits

    def write(self, value: int, nbits: int) -> None:
        """Append `value` as exactly `nbits` bits; LocalError when it does not fit."""
        value, nbits = int(value), int(nbits)  # NumPy integers overflow in the accumulator
        if nbits < 0 or value < 0 or value >> nbits:
            raise LocalError(f"BitWriter: {value} does not fit in {nbits} bits")
        self._pending = (self._pending << nbits) | value
        self._pending_bits += nbits
        if self._pending_bits >= 512:
            self._flush()

    def align(self) -> None:
        """Append zero bits up to the next whole byte."""
        self._aligned.append(self.bits)
        if self._pending_bits % 8:
            self.write(0, -self._pending_bits % 8)

    def write_bytes(self, data: bytes | np.ndarray) -> None:
        """Align, then append whole bytes. An array is copied only by `chunks` or `finish`: do not change it before."""
        self._aligned.append(8 * self._bytes + self._pending_bits)
        if self._pending_bits:
            fill = -self._pending_bits % 8
            self._pending, self._pending_bits = self._pending << fill, self._pending_bits + fill
            self._flush()
        chunk = np.ascontiguousarray(data).data.cast("B") if isinstance(data, np.ndarray) else bytes(data)
        self._chunks.append(chunk)
        self._bytes += len(chunk)

    def passage(self, start: int) -> Passage:
        """What was written since `bits` was `start`, for `repeat`."""
        aligned = next((at for at in self._aligned[bisect_left(self._aligned, start) :]), None)
        self._flush()
        chunks, end = list[bytes | memoryview](), self._bytes
        for chunk in reversed(self._chunks):
            if 8 * end <= start:
                break
            chunks.append(chunk)
            end -= len(chunk)
        last = (self._pending << (-self._pending_bits % 8)).to_bytes(1, "big") if self._pending_bits else b""
        data = b"".join([*reversed(chunks), last])
        shift = 8 * end
        return Passage.of(data, start - shift, self.bits - shift, None if aligned is None else aligned - shift)

    def repeat(self, passage: Passage) -> None:
        """Append what another writer wrote, or a reader read, at any place."""
        self.write(passage.head, passage.head_bits)
        if passage.body is not None:
            self.write_bytes(passage.body)
            self.write(passage.tail, passage.tail_bits)

    def section(self, name: str) -> Sectioning:
        """Record where the bits that are written inside `with` begin and end; sections nest."""
        return Sectioning(self, name)

    def finish(self) -> bytes:
        """Return all bits, zero-filled to a whole byte."""
        return b"".join(self.chunks())

    def chunks(self) -> list[bytes | memoryview]:
        """Return all bits in pieces, so that a frame is assembled with one copy."""
        self.align()
        self._flush()
        return self._chunks

    def _flush(self) -> None:
        whole, rest = divmod(self._pending_bits, 8)
        if whole:
            self._chunks.append((self._pending >> rest).to_bytes(whole, "big"))
            self._bytes += whole
            self._pending &= (1 << rest) - 1
            self._pending_bits = rest
