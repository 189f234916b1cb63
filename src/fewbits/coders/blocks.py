"""Blocks: an array of bytes under the cheapest of four models; `Rans` and supports share them.

Two bits name the model; the rest begins at a whole byte:
    RAW       the bytes
    CONSTANT  the one byte that all bytes equal
    JOINT     a weight per byte value, then rANS words
    PRODUCT   a weight per digit, then rANS words; products of digit weights are byte weights: a short table
Weights travel as a bit length and a few leading bits; both ends derive the same frequencies from them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fewbits import kernels
from fewbits.coders.joined import digit_table, digits
from fewbits.errors import WireError
from fewbits.wire import BitReader, BitWriter

RAW, CONSTANT, JOINT, PRODUCT = range(4)
MANY = 2**14  # bytes; from here four lanes pay, of which each costs 16 bits
LONG = 2**12  # bytes; from here 15-bit frequencies pay
VERY_LONG = 2**20  # bytes; from here finer weights pay
TAG_BITS = 8  # the two bits of the model, and the fill to a whole byte


@dataclass(frozen=True)
class Block:
    """An encoded block."""

    model: int
    table: np.ndarray  # uint8: weights, zero-filled to a whole byte
    payload: np.ndarray  # uint8

    @property
    def bits(self) -> int:
        """Length in bits, fill included."""
        return TAG_BITS + 8 * (len(self.table) + len(self.payload))

    def write(self, out: BitWriter) -> None:
        """Append model, table and payload."""
        out.write(self.model, 2)
        out.write_bytes(self.table)
        out.write_bytes(self.payload)


def best_block(data: np.ndarray, levels: int) -> Block:
    """Encode bytes of `digits(levels)` digits below `levels` each.  # (n,) uint8, n > 0"""
    counts = kernels.bits.histogram(data, levels ** digits(levels))
    empty = np.zeros(0, np.uint8)
    if counts[data[0]] == len(data):
        return Block(CONSTANT, empty, data[:1])
    model, table, frequency, bits = _cheapest(counts, levels, len(data))
    if bits + TAG_BITS >= 8 * len(data):
        return Block(RAW, empty, data)
    return Block(model, table, coded(data, frequency, _frequency_bits(len(data))))


def read_block(n: int, levels: int, src: BitReader) -> np.ndarray:
    """Decode `n` bytes; WireError for bytes that no encoder writes.  # (n,) uint8"""
    model = src.read(2)
    if model in (RAW, CONSTANT):
        data = src.read_bytes(n if model == RAW else 1)
        if int(data.max()) >= levels ** digits(levels):
            raise WireError(f"byte {data.max()} holds no {digits(levels)} digits below {levels}")
        return data if model == RAW else np.full(n, data[0])
    return read_coded(n, _read_frequency(model, n, levels, src), _frequency_bits(n), src)


def coded(data: np.ndarray, frequency: np.ndarray, precision: int) -> np.ndarray:
    """Encode bytes with rANS; frequencies sum to 2^precision and are positive for each byte present.  # uint8"""
    words = np.empty(len(data) + 8, np.uint16)
    first = kernels.rans.encode(data, frequency, precision, _lanes(len(data)), words)
    return words[first:].astype(">u2").view(np.uint8)


def read_coded(n: int, frequency: np.ndarray, precision: int, src: BitReader) -> np.ndarray:
    """Decode `n` bytes that `coded` wrote under the same frequencies; WireError otherwise.  # (n,) uint8"""
    rest = src.rest()[: 2 * (n + 8)]
    words = rest[: len(rest) & ~1].view(">u2").astype(np.uint16)
    data = np.empty(n, np.uint8)
    used = kernels.rans.decode(words, frequency, precision, _lanes(n), data)
    if used < 0:
        raise WireError(f"the bytes that came are not {n} rANS-coded symbols")
    src.skip(16 * used)
    return data


def model_terms(n: int) -> tuple[int, int, int]:
    """What a JOINT model of n bytes costs beside its code: (mantissa, bits of frequencies, bits of states)."""
    return _mantissa(JOINT, n), _frequency_bits(n), 16 * _lanes(n)


def _lanes(n: int) -> int:
    return 4 if n >= MANY else 1


def _frequency_bits(n: int) -> int:
    return 15 if n >= LONG else 12


def _mantissa(model: int, n: int) -> int:
    """Number of bits sent of each weight after the leading one: an error of 2^-4 costs 0.001 bit per symbol."""
    return 7 if model == PRODUCT else 5 if n >= VERY_LONG else 3


def _cheapest(counts: np.ndarray, levels: int, n: int) -> tuple[int, np.ndarray, np.ndarray, float]:
    """(the better of JOINT and PRODUCT, the table to send, the frequencies that follow from it, bits of both)."""
    words = np.zeros((2, len(counts) // 2 + 2), np.uint64)  # at most 13 + 7 bits a weight
    frequency = np.empty((2, len(counts)), np.int64)
    mantissas, table = (_mantissa(JOINT, n), _mantissa(PRODUCT, n)), digit_table(levels)
    which, size, bits = kernels.models.cheapest(counts, table, levels, mantissas, _frequency_bits(n), words, frequency)
    return (JOINT, PRODUCT)[which], kernels.bits.tobytes(words[which], size), frequency[which], bits + 16 * _lanes(n)


def _read_frequency(model: int, n: int, levels: int, src: BitReader) -> np.ndarray:
    """Read the table of a model; the frequencies that follow from it.  # (m,) int64"""
    table, bytes_of = digit_table(levels), levels ** digits(levels)
    count, frequency = levels if model == PRODUCT else bytes_of, np.empty(bytes_of, np.int64)
    data = src.rest()[: 4 * count + 8]
    terms = _mantissa(model, n), _frequency_bits(n)
    words = kernels.bits.words(data)
    nbits = int(kernels.models.read(words, 8 * len(data), count, table, model == PRODUCT, *terms, frequency))
    if nbits < 0:
        raise WireError(f"the bytes that came are no table of {count} weights")
    src.skip(nbits)
    src.align()
    return frequency
