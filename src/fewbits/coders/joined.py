"""Levels as bytes: offsets from the lowest level, several small levels in one byte, wide levels as byte planes.

A coder of joined bytes takes fewer steps and can use the dependence of neighbouring levels.
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np

from fewbits import kernels
from fewbits.errors import LocalError, WireError
from fewbits.spec import Spec


def width_bits(spec: Spec) -> int:
    """Return the bits of one symbol: ceil(log2 levels) for integers, the word size for floats."""
    return (spec.levels - 1).bit_length() if spec.integer else spec.bits


def trivial(spec: Spec) -> bool:
    """Return whether nothing needs to be sent: no element, or one level."""
    return spec.numel == 0 or width_bits(spec) == 0


def symbol_dtype(spec: Spec) -> np.dtype:
    """Return the smallest unsigned type that holds a symbol."""
    bits = width_bits(spec)
    return np.dtype(f"u{next(size for size in (1, 2, 4, 8) if 8 * size >= bits)}")


def offsets(values: np.ndarray, spec: Spec) -> np.ndarray:
    """Map values to unsigned symbols: level - low, or the float words unchanged.  # (numel,)

    Raises:
        LocalError: type, number or range of the values differ from the Spec.
    """
    _check_values(values, spec)
    if not spec.integer:
        return values
    assert spec.low is not None and spec.high is not None
    if values.size and not (spec.low <= values.min() and values.max() <= spec.high):
        raise _out_of_range(values, spec)
    unsigned = values.view(f"u{values.itemsize}")
    if spec.low:
        unsigned = unsigned - unsigned.dtype.type(spec.low % 2**spec.bits)  # modulo 2^bits, as in two's complement
    return unsigned.astype(symbol_dtype(spec), copy=False)


def restore(symbols: np.ndarray, spec: Spec) -> np.ndarray:
    """Undo `offsets`; WireError for a symbol beyond the last level.  # (numel,)"""
    if not spec.integer:
        return symbols
    assert spec.low is not None
    if spec.levels < 1 << (8 * symbols.itemsize) and symbols.size and int(symbols.max()) >= spec.levels:
        raise WireError(f"decoded symbol {symbols.max()}, but there are {spec.levels} levels")
    unsigned = symbols.astype(f"u{spec.bits // 8}", copy=False)
    if spec.low:
        unsigned = unsigned + unsigned.dtype.type(spec.low % 2**spec.bits)
    return unsigned.view(spec.dtype)


def nothing(spec: Spec) -> np.ndarray:
    """Return the values of a trivial Spec."""
    _check_range(spec)
    return restore(np.zeros(spec.numel, symbol_dtype(spec)), spec)


def _check_values(values: np.ndarray, spec: Spec) -> None:
    expected = np.dtype(spec.dtype if spec.integer else f"u{spec.bits // 8}")
    if values.dtype != expected or values.shape != (spec.numel,):
        found = f"{values.dtype} {values.shape}"
        raise LocalError(f"coder: expected {expected} values of shape ({spec.numel},) for {spec.dtype}; got {found}")
    _check_range(spec)


def _out_of_range(values: np.ndarray, spec: Spec) -> LocalError:
    return LocalError(f"coder: levels must be in {spec.low}..{spec.high}; got {values.min()}..{values.max()}")


def _check_range(spec: Spec) -> None:
    if not spec.integer:
        return
    assert spec.low is not None and spec.high is not None
    holds = np.iinfo(spec.dtype)
    if not holds.min <= spec.low <= spec.high <= holds.max:
        raise LocalError(f"coder: levels {spec.low}..{spec.high} are not a range of {spec.dtype}")


@cache
def digits(levels: int) -> int:
    """Return how many levels fit in one byte: 8 of 2, 5 of 3, 4 of 4, 3 of up to 6, 2 of up to 16, else 1."""
    return next(k for k in (8, 5, 4, 3, 2, 1) if levels**k <= 256 or k == 1)


def join(values: np.ndarray, spec: Spec, pad: int | None = None) -> np.ndarray:
    """Join symbols of at most 8 bits, `digits` to a byte, the first most significant.

    The last symbol, or `pad`, fills the last byte. LocalError as in `offsets`.
    # (n,) of the Spec's type, n >= 1 -> (ceil(n / digits),) uint8
    """
    assert spec.low is not None
    count, low = digits(_base(spec, pad)), spec.low % 256
    if count == 1:
        return offsets(values, spec)
    if values.itemsize > 1:
        values, low = offsets(values, spec), 0
    else:
        _check_values(values, spec)
    symbols = np.ascontiguousarray(values).view(np.uint8)
    last = (int(symbols[-1]) - low) % 256 if pad is None else pad
    if count == 8 and not low and not last:  # as packbits fills the last byte
        most = int(symbols.max())
        out = np.packbits(symbols)
    else:
        out = np.empty(-(-len(symbols) // count), np.uint8)
        most = kernels.bits.join(symbols, low, _base(spec, pad), count, last, out)
    if most >= spec.levels:
        raise _out_of_range(values, spec)
    return out


def separate(data: np.ndarray, spec: Spec, packed: bool = False) -> np.ndarray:
    """Undo `join` (`packed`: with a pad); WireError for a byte that it cannot write.  # (numel,) of the Spec's type

    The digits that fill the last byte are ignored.
    """
    assert spec.low is not None
    base = _base(spec, packed or None)
    count = digits(base)
    if count > 1 and base**count < 256 and int(data.max()) >= base**count:
        raise WireError(f"byte {data.max()} holds no {count} digits below {base}")
    if count == 1 or spec.bits > 8 or base > spec.levels:
        return restore(_separated(data, digit_table(base), spec.numel) if count > 1 else data, spec)
    return _separated(data, level_table(base, spec.low % 256), spec.numel).view(spec.dtype)


def _base(spec: Spec, pad: int | None) -> int:
    """Return the base of the digits: the number of levels, or the next power of two when bits are packed."""
    return spec.levels if pad is None else 1 << width_bits(spec)


def _separated(data: np.ndarray, table: np.ndarray, n: int) -> np.ndarray:
    count = table.shape[1]
    if count not in (2, 4, 8):
        out = np.empty(n, np.uint8)
        kernels.bits.lookup_rows(data, table, out)
        return out
    out = np.empty(len(data) * count, np.uint8)
    kernels.bits.lookup(data, table.view(f"u{count}").ravel(), out.view(f"u{count}"))
    return out[:n]


@lru_cache(maxsize=32)
def digit_table(levels: int) -> np.ndarray:
    """Tabulate the digits of each byte, most significant first.  # (256, digits) uint8"""
    powers = levels ** np.arange(digits(levels))[::-1]
    return np.ascontiguousarray((np.arange(256)[:, None] // powers % levels).astype(np.uint8))


@lru_cache(maxsize=32)
def level_table(levels: int, low: int) -> np.ndarray:
    """Tabulate the levels of each byte: its digits plus `low`, modulo 256.  # (256, digits) uint8"""
    return digit_table(levels) + np.uint8(low)


def planes(symbols: np.ndarray, spec: Spec) -> list[np.ndarray]:
    """Cut symbols into one byte array per byte, least significant first, without unused high bytes."""
    whole = symbols.astype(symbols.dtype.newbyteorder("<"), copy=False).view(np.uint8).reshape(-1, symbols.itemsize)
    return [np.ascontiguousarray(whole[:, i]) for i in range(-(-width_bits(spec) // 8))]


def merge(parts: list[np.ndarray], spec: Spec) -> np.ndarray:
    """Undo `planes`."""
    kind = symbol_dtype(spec)
    whole = np.zeros((spec.numel, kind.itemsize), np.uint8)
    for i, part in enumerate(parts):
        whole[:, i] = part
    return whole.view(kind.newbyteorder("<")).ravel().astype(kind, copy=False)
