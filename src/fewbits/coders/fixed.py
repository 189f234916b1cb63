"""Fixed: every value in the same number of bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fewbits import kernels
from fewbits.coders.base import Coder
from fewbits.coders.joined import join, nothing, offsets, restore, separate, symbol_dtype, trivial, width_bits
from fewbits.spec import Spec
from fewbits.wire import BitReader, BitWriter

JOINED = (1, 2, 4)  # widths that fill bytes


@dataclass(frozen=True)
class Fixed(Coder):
    """Write every level in the same number of bits.

    ``ceil(log2 levels)`` bits per level, most significant bit first; floats as little-endian words.

    Example:
        >>> Fixed().payload_bits(Spec((5,), "int8", -7, 7))
        20
    """

    wire_name: ClassVar[str] = "fixed"

    floats = True

    def write(self, values: np.ndarray, spec: Spec, out: BitWriter) -> None:
        if trivial(spec):  # `read` stops here too, so not even the fill before floats is written
            offsets(values, spec)
        elif not spec.integer:
            out.write_bytes(offsets(values, spec).astype(values.dtype.newbyteorder("<"), copy=False))
        else:
            write_packed(_pack(values, spec), width_bits(spec) * spec.numel, out)

    def read(self, spec: Spec, src: BitReader) -> np.ndarray:
        if trivial(spec):
            return nothing(spec)
        if not spec.integer:
            words = src.read_bytes(spec.numel * spec.bits // 8).view(f"<u{spec.bits // 8}")
            return words.astype(f"u{spec.bits // 8}", copy=False)  # may be a view of the frame
        width = width_bits(spec)
        data = read_packed(width * spec.numel, src)
        if width in JOINED:
            return separate(data, spec, packed=True)
        symbols = np.empty(spec.numel, symbol_dtype(spec))
        _unpack(data, width, symbols)
        return restore(symbols, spec)

    def payload_bits(self, spec: Spec) -> int:
        return width_bits(spec) * spec.numel

    @classmethod
    def examples(cls) -> Sequence[Fixed]:
        return (cls(),)


def write_packed(data: np.ndarray, nbits: int, out: BitWriter) -> None:
    """Append the first `nbits` bits of `data` (uint8): aligned whole bytes, then the rest as bits."""
    whole, tail = divmod(nbits, 8)
    if whole:
        out.write_bytes(data[:whole])
    if tail:
        out.write(int(data[whole]) >> (8 - tail), tail)


def read_packed(nbits: int, src: BitReader) -> np.ndarray:
    """Read the bits that `write_packed` wrote, zero-filled to whole bytes.  # (ceil(nbits/8),) uint8"""
    whole, tail = divmod(nbits, 8)
    src.need(nbits, "a packed array")
    data = src.read_bytes(whole) if whole else np.zeros(0, np.uint8)
    if not tail:
        return data
    return np.append(data, np.uint8(src.read(tail) << (8 - tail)))


def _pack(values: np.ndarray, spec: Spec) -> np.ndarray:
    width = width_bits(spec)
    if width in JOINED:
        return join(values, spec, pad=0)
    symbols = offsets(values, spec)
    if width in (8, 16, 32, 64):
        return symbols.astype(symbols.dtype.newbyteorder(">"), copy=False).view(np.uint8)
    nbits = width * len(symbols)
    words = np.zeros(-(-nbits // 64), np.uint64)
    kernels.bits.pack(symbols, width, words)
    return kernels.bits.tobytes(words, nbits)


def _unpack(data: np.ndarray, width: int, out: np.ndarray) -> None:
    if width in (8, 16, 32, 64):
        out[:] = np.frombuffer(data.tobytes(), f">u{width // 8}")
    else:
        kernels.bits.unpack(kernels.bits.words(data), width, out)
