"""Write bits, most significant first; the reader in reader.py faces this file method for method."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from fewbits.errors import LocalError


@dataclass(frozen=True)
class Section:
    """A named stretch of a payload, for ledgers and for `fewbits inspect`."""

    name: str  # path of nested names, joined by "/"
    start: int  # in bits from the start of the payload
    stop: int  # in bits, exclusive


class BitWriter:
    """Collects bits; small integers go through an accumulator, bulk arrays as whole bytes after `align`."""

    def __init__(self) -> None:
        self._chunks: list[bytes | memoryview] = []
        self._bytes = 0  # bytes in _chunks
        self._pending = 0  # bits not yet in a chunk, as an integer
        self._pending_bits = 0
        self._names: list[str] = []
        self.sections: list[Section] = []

    @property
    def bits(self) -> int:
        """Bits written so far."""
        return 8 * self._bytes + self._pending_bits

    def write(self, value: int, nbits: int) -> None:
        """Append `value` as exactly `nbits` bits."""
        value, nbits = int(value), int(nbits)  # NumPy integers would overflow in the accumulator
        if nbits < 0 or value < 0 or value >> nbits:
            raise LocalError(f"BitWriter: {value} does not fit in {nbits} bits")
        self._pending = (self._pending << nbits) | value
        self._pending_bits += nbits
        if self._pending_bits >= 512:
            self._flush()

    def align(self) -> None:
        """Fill up with zero bits to the next whole byte."""
        self.write(0, -self.bits % 8)

    def write_bytes(self, data: bytes | np.ndarray) -> None:
        """Append whole bytes, after aligning. An array is not copied before `chunks` or `finish`: leave it as it is."""
        self.align()
        self._flush()
        chunk = np.ascontiguousarray(data).data.cast("B") if isinstance(data, np.ndarray) else bytes(data)
        self._chunks.append(chunk)
        self._bytes += len(chunk)

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Record where the bits written inside begin and end; sections nest."""
        start = self.bits
        self._names.append(name)
        path = "/".join(self._names)
        try:
            yield
        finally:
            self._names.pop()
            self.sections.append(Section(path, start, self.bits))

    def finish(self) -> bytes:
        """Everything written, zero-filled to a whole byte."""
        return b"".join(self.chunks())

    def chunks(self) -> list[bytes | memoryview]:
        """The same in pieces, so that a frame is put together with one copy."""
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
