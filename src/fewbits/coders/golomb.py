"""The vector source coder of Malcom-PSGD (Campbell, Liu, Woldemariam, Scaglione; arXiv 2309.05633, 2311.05760).

The type of the vector (how often each level occurs), then for each level but the last its support among the
positions not yet explained, as Golomb-coded runs; trailing runs are implied by the counts. No prior distribution
is needed. Differences: only levels that occur are listed (gamma of the step to the next, delta of its count), ties in
the order go to the lower level, and the parameter is found with exactly rounded operations, so that no two
machines disagree on it.
"""

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
    """Write how often each level occurs, then where, level by level, as Golomb-coded runs.

    About log2 of the number of vectors of the same type, in bits; no model is needed. Time O(numel + nonzeros * log
    levels).

    Args:
        order: levels from the least frequent, "ascending"; "descending" costs up to 129% over the entropy (measured).

    Raises:
        LocalError: there is no such order; at encoding, there are more than 65,536 levels.

    Example:
        >>> import torch
        >>> from fewbits import Golomb, Key, Quantize, Sender, Spec, chain
        >>> x = torch.zeros(8000)
        >>> x[0] = 1.0
        >>> len(Sender(chain(Quantize(bits=4), Golomb()), Spec.of(x), Key(0)).send(x)) < 40
        True

    Source: Malcom-PSGD, Campbell, Liu, Woldemariam, Scaglione, arXiv 2309.05633. Different here: only levels that occur
    are listed; ties go to the lower level; the parameter is found with exactly rounded operations.
    """

    wire_name: ClassVar[str] = "golomb"

    order: str = "ascending"

    def __post_init__(self) -> None:
        check_one_of("Golomb: order", self.order, ("ascending", "descending"))

    def write(self, values: np.ndarray, spec: Spec, out: BitWriter) -> None:
        """Append counts, align, append runs; LocalError above 65536 levels."""
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
        """Read them back; WireError for counts or runs that do not fit numel."""
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
    """What both ends work out from the counts: which level comes when, among how many positions, with which M."""

    levels: np.ndarray  # symbols in the order they are coded; the last is implied
    starts: np.ndarray  # (coded levels + 1,) int64: hits before each coded level
    sizes: np.ndarray  # (coded levels,) int64: positions not yet explained
    parameters: np.ndarray  # (coded levels,) int64: M of each

    @staticmethod
    def of(counts: np.ndarray, order: str) -> _Plan:
        """Kept for a while: a frame's sender, its receivers and its prediction ask for the same one."""
        return _planned(np.ascontiguousarray(counts, np.int64).tobytes(), order)

    @staticmethod
    def made(counts: np.ndarray, order: str) -> _Plan:
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
        """A bound on the length of the runs."""
        tails = [(int(m) - 1).bit_length() + 1 for m in self.parameters]
        return int(np.sum(self.sizes // self.parameters) + np.dot(np.diff(self.starts), np.array(tails, np.int64)))


@lru_cache(maxsize=32)
def _planned(counts: bytes, order: str) -> _Plan:
    return _Plan.made(np.frombuffer(counts, np.int64), order)


def parameter(hits: int, size: int) -> int:
    """M = ceil(-log(1 + q) / log q), q = 1 - hits/size: the least M with q^M (1 + q) <= 1.

    The best for geometric runs (Gallager, van Voorhis 1975), but for rounding of one part in 10^8 at sizes near 2^31.
    Found by products of doubles alone, which IEEE rounds alike everywhere; a logarithm may differ in the last bit.
    """
    q = (size - hits) / size
    powers = [q]  # q^(2^i)
    while powers[-1] * (1 + q) > 1:
        powers.append(powers[-1] * powers[-1])
    below, power = 0, 1.0  # the greatest M that is still too small
    for i in reversed(range(len(powers) - 1)):
        if power * powers[i] * (1 + q) > 1:
            below, power = below + (1 << i), power * powers[i]
    return below + 1


def write_type(counts: np.ndarray, out: BitWriter) -> None:
    """For each level that occurs, gamma of the step from the one before it and delta of its count."""
    previous = -1
    for level in np.flatnonzero(counts).tolist():
        write_gamma(level - previous, out)
        write_delta(int(counts[level]), out)
        previous = level


def read_type(numel: int, levels: int, src: BitReader) -> np.ndarray:
    """Read counts until they sum to `numel`; WireError beyond the last level.  # (levels,) int64"""
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
    """Positions of each coded level among those not yet explained, level after level.  # (hits,) int64"""
    total = int(plan.starts[-1])
    rank = np.zeros(spec.levels, np.uint16)
    rank[plan.levels] = np.arange(len(plan.levels))
    positions, ranks = np.empty(total + 1, np.int64), np.empty(total + 1, np.uint16)
    whole = len(symbols) // 8 if symbols.itemsize == 1 else 0
    eights = symbols[: 8 * whole].view(np.uint64) if whole else np.zeros(0, np.uint64)
    kernels.golomb.collect(symbols, eights, plan.levels[-1], rank, positions, ranks)
    positions, ranks = positions[:total], ranks[:total]
    return kernels.golomb.peel(positions, ranks, plan.starts, np.empty_like(positions), np.empty_like(ranks))


def _assembled(found: np.ndarray, plan: _Plan, spec: Spec) -> np.ndarray:
    """Undo `_peeled`.  # (numel,) symbols"""
    ranks = np.repeat(np.arange(len(plan.levels) - 1, dtype=np.uint16), np.diff(plan.starts))
    spare = np.empty_like(found), np.empty_like(ranks)
    positions, ranks = kernels.golomb.unpeel(found, ranks, plan.starts, *spare)
    kind = symbol_dtype(spec)
    symbols = np.full(spec.numel, plan.levels[-1], kind)
    kernels.golomb.place(positions, ranks, plan.levels.astype(kind), symbols)
    return symbols


def predicted_bits(counts: Sequence[int] | np.ndarray, order: str = "ascending") -> float:
    """Expected length for i.i.d. levels with these counts: sum of elias(m_a) + sum over a != last of m_a E(p_a, M_a).

    E(p, M) = 1/(1-q^M) + (b-1) + (q^r - q^M)/(1-q^M), q = 1-p, b = ceil(log2 M), r = 2^b - M.
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
