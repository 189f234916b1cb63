"""Elias gamma and delta codes: short words for small numbers, without a model."""

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
    """Write each level as an Elias code, shortest for levels near zero.

    A level v becomes the positive integer ``x = 2v + 1`` (v >= 0) or ``x = -2v``. A range without negative, or without
    positive, levels counts from its end nearest to zero. gamma has ``2 floor(log2 x) + 1`` bits; delta has
    ``floor(log2 x) + 2 floor(log2(floor(log2 x) + 1)) + 1``. At most 2^32 levels.

    Args:
        code: "gamma", shorter below x = 32, or "delta", shorter from there on.

    Raises:
        LocalError: another code; when used, more than 2^32 levels or levels beyond 2^33.

    Example:
        >>> import numpy as np
        >>> spec, out = Spec((4,), "int8", -7, 7), BitWriter()
        >>> Elias().write(np.array([0, -1, 2, 0], np.int8), spec, out)
        >>> out.bits
        10
        >>> Elias().read(spec, BitReader(out.finish())).tolist()
        [0, -1, 2, 0]

    References:
        Elias, Universal codeword sets and representations of the integers, IEEE Trans. Information Theory 21, 1975.
        QSGD (Alistarh et al. 2017) uses the same codes for magnitudes, with a separate sign bit.
    """

    wire_name: ClassVar[str] = "elias"

    code: str = "gamma"  # "gamma": shorter below 32; "delta": shorter from 32 on

    def __post_init__(self) -> None:
        check_one_of("Elias: code", self.code, ("gamma", "delta"))

    def write(self, values: np.ndarray, spec: Spec, out: BitWriter) -> None:
        low, high = _range(spec)
        symbols = offsets(values, spec)
        if trivial(spec):
            return
        delta = self.code == "delta"
        nbits = int(kernels.elias.elias_bits(symbols, low, high, delta))
        words = np.zeros(nbits // 64 + 2, np.uint64)
        kernels.elias.elias_encode(symbols, low, high, delta, words)
        out.align()
        write_packed(kernels.bits.tobytes(words, nbits), nbits, out)

    def read(self, spec: Spec, src: BitReader) -> np.ndarray:
        low, high = _range(spec)
        if trivial(spec):
            return nothing(spec)
        data = src.rest()[: spec.numel * MAX_CODE_BITS // 8 + 1]
        src.need(spec.numel, "an Elias code of one bit at least per level")
        symbols = np.empty(spec.numel, symbol_dtype(spec))
        words = kernels.bits.words(data)
        used = kernels.elias.elias_decode(words, 8 * len(data), low, high, self.code == "delta", symbols)
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
    """Return the length of the gamma code of value >= 1, in bits.

    >>> [gamma_bits(value) for value in (1, 2, 4)]
    [1, 3, 5]
    """
    return 2 * value.bit_length() - 1


def delta_bits(value: int) -> int:
    """Return the length of the delta code of value >= 1, in bits.

    >>> [delta_bits(value) for value in (1, 2, 4)]
    [1, 4, 5]
    """
    return gamma_bits(value.bit_length()) + value.bit_length() - 1


def write_gamma(value: int, out: BitWriter) -> None:
    """Append the gamma code of value >= 1: floor(log2 value) zeros, then its binary digits.

    Args:
        value: a whole number, 1 or more.
        out: where it is written.

    Raises:
        LocalError: value is below 1.

    >>> out = BitWriter()
    >>> write_gamma(5, out)
    >>> read_gamma(BitReader(out.finish()), bound=8)
    5
    """
    if value < 1:
        raise LocalError(f"Elias codes start at 1; got {value}")
    out.write(value, gamma_bits(value))


def write_delta(value: int, out: BitWriter) -> None:
    """Append the delta code of value >= 1: gamma of the number of digits, then all digits after the first.

    Args:
        value: a whole number, 1 or more.
        out: where it is written.

    Raises:
        LocalError: value is below 1.

    >>> out = BitWriter()
    >>> write_delta(5, out)
    >>> read_delta(BitReader(out.finish()), bound=8)
    5
    """
    if value < 1:
        raise LocalError(f"Elias codes start at 1; got {value}")
    write_gamma(value.bit_length(), out)
    out.write(value - (1 << (value.bit_length() - 1)), value.bit_length() - 1)


def read_gamma(src: BitReader, bound: int) -> int:
    """Read what `write_gamma` wrote.

    Args:
        src: where it is read from.
        bound: the largest value that is possible here.

    Raises:
        WireError: the value is not in 1..bound, or the bits end.
    """
    zeros = 0
    while not src.read(1):
        zeros += 1
        if zeros >= bound.bit_length():
            raise WireError(f"an Elias code of more than {zeros} digits came where at most {bound} was expected")
    return _bounded((1 << zeros) | src.read(zeros), bound)


def read_delta(src: BitReader, bound: int) -> int:
    """Read what `write_delta` wrote.

    Args:
        src: where it is read from.
        bound: the largest value that is possible here.

    Raises:
        WireError: the value is not in 1..bound, or the bits end.
    """
    size = read_gamma(src, max(1, bound.bit_length())) - 1
    return _bounded((1 << size) | src.read(size), bound)


def _bounded(value: int, bound: int) -> int:
    if value > bound:
        raise WireError(f"an Elias code gives {value}; at most {bound} was expected")
    return value
