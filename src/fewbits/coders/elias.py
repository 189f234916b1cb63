"""Elias codes: short words for small numbers, without any model (Elias 1975)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fewbits import kernels
from fewbits.checks import check_one_of
from fewbits.coders.base import Coder
from fewbits.coders.fixed import write_packed
from fewbits.coders.joined import nothing, offsets, restore, symbol_dtype, trivial
from fewbits.errors import LocalError, WireError
from fewbits.spec import Spec
from fewbits.wire import BitReader, BitWriter

MAX_LEVELS = 2**32
MAX_CODE_BITS = 67  # gamma of the largest zigzag of such an alphabet


@dataclass(frozen=True)
class Elias(Coder):
    """Write short words for levels near zero, without a model.

    Each level is mapped to a positive integer (0, -1, 1, -2, ... to 1, 2, 3, 4, ...) and written in its Elias code. A
    range without negative (or positive) levels counts from its end nearest to zero instead.

    Args:
        code: "gamma", shortest near zero; or "delta", shorter from 32 up.

    Raises:
        LocalError: there is no such code; at encoding, there are more than 2^32 levels.

    Example:
        >>> import torch
        >>> from fewbits import Elias, Key, Quantize, Sender, Spec, chain
        >>> x = torch.zeros(8000)
        >>> x[0] = 1.0
        >>> len(Sender(chain(Quantize(bits=4), Elias()), Spec.of(x), Key(0)).send(x))  # about a bit each
        1021

    Source: Elias 1975.
    """

    wire_name: ClassVar[str] = "elias"

    code: str = "gamma"

    def __post_init__(self) -> None:
        check_one_of("Elias: code", self.code, ("gamma", "delta"))

    def write(self, values: np.ndarray, spec: Spec, out: BitWriter) -> None:
        """Append the codes after aligning; LocalError above 2^32 levels."""
        low, high = _range(spec)
        symbols = offsets(values, spec)
        if trivial(spec):
            return
        delta = self.code == "delta"
        nbits = int(kernels.golomb.elias_bits(symbols, low, high, delta))
        words = np.zeros(nbits // 64 + 2, np.uint64)
        kernels.golomb.elias_encode(symbols, low, high, delta, words)
        out.align()
        write_packed(kernels.bits.tobytes(words, nbits), nbits, out)

    def read(self, spec: Spec, src: BitReader) -> np.ndarray:
        """Read them back; WireError when one is cut, or names no level."""
        low, high = _range(spec)
        if trivial(spec):
            return nothing(spec)
        data = src.rest()[: spec.numel * MAX_CODE_BITS // 8 + 1]
        src.need(spec.numel, "an Elias code of one bit at least per level")
        symbols = np.empty(spec.numel, symbol_dtype(spec))
        words = kernels.bits.words(data)
        used = kernels.golomb.elias_decode(words, 8 * len(data), low, high, self.code == "delta", symbols)
        if used < 0:
            raise WireError(f"Elias: {spec.numel} codes of levels {low}..{high} do not fit the bytes that came")
        src.skip(int(used))
        return restore(symbols, spec)

    @classmethod
    def examples(cls) -> Sequence[Elias]:
        return (cls("gamma"), cls("delta"))


def _range(spec: Spec) -> tuple[int, int]:
    if spec.low is None or spec.high is None or spec.levels > MAX_LEVELS:
        raise LocalError(
            f"Elias: codes integers of at most {MAX_LEVELS} levels; got {spec.dtype} {spec.low}..{spec.high}"
        )
    if max(abs(spec.low), abs(spec.high)) > 2**33 and spec.low < 0 < spec.high:
        raise LocalError(f"Elias: levels {spec.low}..{spec.high} lie too far from zero")
    return spec.low, spec.high


def gamma_bits(value: int) -> int:
    """Length of the gamma code of value >= 1."""
    return 2 * value.bit_length() - 1


def delta_bits(value: int) -> int:
    """Length of the delta code of value >= 1."""
    return gamma_bits(value.bit_length()) + value.bit_length() - 1


def write_gamma(value: int, out: BitWriter) -> None:
    """Append value >= 1: floor(log2 value) zeros, then its binary digits."""
    if value < 1:
        raise LocalError(f"Elias codes start at 1; got {value}")
    out.write(value, gamma_bits(value))


def write_delta(value: int, out: BitWriter) -> None:
    """Append value >= 1: gamma of its number of binary digits, then the digits but the first."""
    if value < 1:
        raise LocalError(f"Elias codes start at 1; got {value}")
    write_gamma(value.bit_length(), out)
    out.write(value - (1 << (value.bit_length() - 1)), value.bit_length() - 1)


def read_gamma(src: BitReader, bound: int) -> int:
    """The next gamma code; WireError unless it is in 1..bound."""
    zeros = 0
    while not src.read(1):
        zeros += 1
        if zeros >= bound.bit_length():
            raise WireError(f"an Elias code of more than {zeros} digits came where at most {bound} was expected")
    return _bounded((1 << zeros) | src.read(zeros), bound)


def read_delta(src: BitReader, bound: int) -> int:
    """The next delta code; WireError unless it is in 1..bound."""
    size = read_gamma(src, max(1, bound.bit_length())) - 1
    return _bounded((1 << size) | src.read(size), bound)


def _bounded(value: int, bound: int) -> int:
    if value > bound:
        raise WireError(f"an Elias code gives {value}; at most {bound} was expected")
    return value
