"""Golomb: the type of the vector, then the positions of each level as Golomb-coded runs (Malcom-PSGD)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from fewbits import kernels
from fewbits.checks import check_one_of
from fewbits.coders.base import Coder
from fewbits.coders.elias import delta_bits, gamma_bits, read_delta, read_gamma, write_delta, write_gamma
from fewbits.coders.fixed import write_packed
from fewbits.coders.joined import nothing, offsets, restore, symbol_dtype, trivial
from fewbits.errors import LocalError, WireError
from fewbits.spec import Spec
from fewbits.wire import BitReader, BitWriter

MAX_LEVELS = 2**16


@dataclass(frozen=True)
class Golomb(Coder):
    """Write how often each level occurs, then the positions of each level as Golomb-coded runs.

    The counts (the *type* of the vector) travel first. Then the positions of each level but the last travel as runs,
    counted among the positions that no earlier level took. A run ``g = a M + r`` has a in unary and r in truncated
    binary, with ``M = ceil(-log(1 + q) / log q)`` and ``q = 1 - count / positions``. Trailing runs follow from the
    counts. No prior distribution is needed. The time is O(numel + nonzeros * log levels). At most 2^16 levels.

    Args:
        order: "ascending", least frequent level first, or "descending", which costs up to 129% over the entropy.

    Raises:
        LocalError: another order; when used, floats or more than 2^16 levels.

    Example:
        >>> import numpy as np
        >>> spec, out = Spec((4,), "int8", -7, 7), BitWriter()
        >>> Golomb().write(np.array([0, -1, 2, 0], np.int8), spec, out)
        >>> out.bits
        20
        >>> Golomb().read(spec, BitReader(out.finish())).tolist()
        [0, -1, 2, 0]

    References:
        Campbell, Liu, Woldemariam and Scaglione, arXiv 2309.05633 and 2311.05760. Differences: only levels that occur
        are listed (gamma of the step, delta of the count); of equal counts the lower level is first; M is found with
        exactly rounded operations, so that all machines agree.
    """

    wire_name: ClassVar[str] = "golomb"

    order: str = "ascending"  # least frequent level first; "descending": up to 129% over entropy (measured)

    def __post_init__(self) -> None:
        check_one_of("Golomb: order", self.order, ("ascending", "descending"))

    def write(self, values: np.ndarray, spec: Spec, out: BitWriter) -> None:
        _check(spec)
        symbols = offsets(values, spec)
        if trivial(spec):
            return
        counts = kernels.bits.histogram(symbols, spec.levels)
        write_type(counts, out)
        plan = _Plan.of(counts, self.order)
        positions = _peeled(symbols, plan, spec)
        words = np.zeros(plan.max_bits // 64 + 2, np.uint64)
        nbits = int(kernels.golomb.golomb_encode(positions, plan.starts, plan.parameters, words))
        out.align()
        write_packed(kernels.bits.tobytes(words, nbits), nbits, out)

    def read(self, spec: Spec, src: BitReader) -> np.ndarray:
        _check(spec)
        if trivial(spec):
            return nothing(spec)
        plan = _Plan.of(read_type(spec.numel, spec.levels, src), self.order)
        total = int(plan.starts[-1])
        data = src.rest()[: plan.max_bits // 8 + 1]
        src.need(total, "a Golomb code of one bit at least per position")
        found = np.empty(total, np.int64)
        words = kernels.bits.words(data)
        used = kernels.golomb.golomb_decode(words, 8 * len(data), plan.starts, plan.parameters, plan.sizes, found)
        if used < 0:
            raise WireError(f"Golomb: {total} positions below {spec.numel} do not fit the bytes that came")
        src.skip(int(used))
        return restore(_assembled(found, plan, spec), spec)

    @classmethod
    def examples(cls) -> Sequence[Golomb]:
        return (cls(), cls("descending"))


def _check(spec: Spec) -> None:
    if not spec.integer or spec.levels > MAX_LEVELS or spec.numel >= 2**32:
        found = f"{spec.numel} of {spec.dtype} {spec.low}..{spec.high}"
        raise LocalError(f"Golomb: codes up to 2^32 integers of at most {MAX_LEVELS} levels; got {found}")


@dataclass(frozen=True)
class _Plan:
    """Order, starts and parameters of the coded levels; both ends derive it from the counts."""

    levels: np.ndarray  # symbols in coding order; the last one is implied
    starts: np.ndarray  # (coded levels + 1,) int64: hits before each coded level
    sizes: np.ndarray  # (coded levels,) int64: positions that no earlier level took
    parameters: np.ndarray  # (coded levels,) int64: M of each

    @staticmethod
    def of(counts: np.ndarray, order: str) -> _Plan:
        """Return the plan for these counts; cached, because sender, receivers and estimate need the same one."""
        return _planned(np.ascontiguousarray(counts, np.int64).tobytes(), order)

    @staticmethod
    def made(counts: np.ndarray, order: str) -> _Plan:
        """Compute the plan for these counts."""
        present = np.flatnonzero(counts)
        key = counts[present] if order == "ascending" else -counts[present]
        levels = present[np.argsort(key, kind="stable")]
        hits = counts[levels][:-1].astype(np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(hits)])
        sizes = counts.sum() - starts[:-1]
        pairs = zip(hits.tolist(), sizes.tolist(), strict=True)
        return _Plan(levels, starts, sizes, np.array([parameter(m, n) for m, n in pairs], np.int64))

    @property
    def max_bits(self) -> int:
        """Upper bound of the length of the runs, in bits."""
        tails = [(int(m) - 1).bit_length() + 1 for m in self.parameters]
        return int(np.sum(self.sizes // self.parameters) + np.dot(np.diff(self.starts), np.array(tails, np.int64)))


@lru_cache(maxsize=32)
def _planned(counts: bytes, order: str) -> _Plan:
    return _Plan.made(np.frombuffer(counts, np.int64), order)


def parameter(hits: int, size: int) -> int:
    """Return M = ceil(-log(1 + q) / log q), q = 1 - hits/size: the least M with q^M (1 + q) <= 1.

    This M is the best for geometric runs (Gallager and van Voorhis 1975), up to rounding of 10^-8 at sizes near 2^31.
    Only products of doubles are used: IEEE rounds them alike everywhere, but a logarithm may differ in the last bit.
    """
    q = (size - hits) / size
    powers = [q]  # q^(2^i)
    while powers[-1] * (1 + q) > 1:
        powers.append(powers[-1] * powers[-1])
    below, power = 0, 1.0  # binary search for the greatest M that is still too small
    for i in reversed(range(len(powers) - 1)):
        if power * powers[i] * (1 + q) > 1:
            below, power = below + (1 << i), power * powers[i]
    return below + 1


def write_type(counts: np.ndarray, out: BitWriter) -> None:
    """Append the type: for each level that occurs, gamma of the step from the one before and delta of its count."""
    previous = -1
    for level in np.flatnonzero(counts).tolist():
        write_gamma(level - previous, out)
        write_delta(int(counts[level]), out)
        previous = level


def read_type(numel: int, levels: int, src: BitReader) -> np.ndarray:
    """Read the type until its counts sum to `numel`; WireError beyond the last level.  # (levels,) int64"""
    counts = np.zeros(levels, np.int64)
    level, left = -1, numel
    while left:
        level += read_gamma(src, levels)
        if level >= levels:
            raise WireError(f"counts of {numel - left} values came for {levels} levels; {numel} were expected")
        counts[level] = read_delta(src, left)
        left -= int(counts[level])
    return counts


def _peeled(symbols: np.ndarray, plan: _Plan, spec: Spec) -> np.ndarray:
    """Count the positions of each coded level among those that no earlier level took.  # (hits,) int64"""
    total = int(plan.starts[-1])
    rank = np.zeros(spec.levels, np.uint16)
    rank[plan.levels] = np.arange(len(plan.levels))
    positions, ranks = np.empty(total + 1, np.int64), np.empty(total + 1, np.uint16)
    whole = len(symbols) // 8 if symbols.itemsize == 1 else 0
    eights = symbols[: 8 * whole].view(np.uint64) if whole else np.zeros(0, np.uint64)
    kernels.peel.collect(symbols, eights, plan.levels[-1], rank, positions, ranks)
    positions, ranks = positions[:total], ranks[:total]
    return kernels.peel.peel(positions, ranks, plan.starts, np.empty_like(positions), np.empty_like(ranks))


def _assembled(found: np.ndarray, plan: _Plan, spec: Spec) -> np.ndarray:
    """Undo `_peeled`.  # (numel,) symbols"""
    ranks = np.repeat(np.arange(len(plan.levels) - 1, dtype=np.uint16), np.diff(plan.starts))
    spare = np.empty_like(found), np.empty_like(ranks)
    positions, ranks = kernels.peel.unpeel(found, ranks, plan.starts, *spare)
    kind = symbol_dtype(spec)
    symbols = np.full(spec.numel, plan.levels[-1], kind)
    kernels.peel.place(positions, ranks, plan.levels.astype(kind), symbols)
    return symbols


def predicted_bits(counts: Sequence[int] | np.ndarray, order: str = "ascending") -> float:
    """Predict the length in bits for i.i.d. levels: sum of elias(m_a) + sum over a != last of m_a E(p_a, M_a).

    E(p, M) = 1/(1-q^M) + (b-1) + (q^r - q^M)/(1-q^M), q = 1-p, b = ceil(log2 M), r = 2^b - M.

    Args:
        counts: (levels,) how often each level occurs.
        order: that of `Golomb`.

    >>> round(predicted_bits([5, 90, 5]))
    81
    """
    array = np.asarray(counts, np.int64)
    plan = _Plan.of(array, order)
    present = np.flatnonzero(array)
    bits = float(sum(gamma_bits(int(step)) for step in np.diff(present, prepend=-1)))
    bits += sum(delta_bits(int(m)) for m in array[present])
    for hits, size, m in zip(np.diff(plan.starts), plan.sizes, plan.parameters, strict=True):
        q, b = float(1 - hits / size), (int(m) - 1).bit_length()
        short, ends = 2**b - int(m), -math.expm1(int(m) * math.log(q))
        bits += int(hits) * (1 / ends + (b - 1) + (q**short - q ** int(m)) / ends)
    return bits
