"""Auto: try every coder and write the shortest output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fewbits import kernels
from fewbits.coders.base import Coder
from fewbits.coders.elias import MAX_LEVELS, Elias
from fewbits.coders.fixed import Fixed
from fewbits.coders.golomb import Golomb, predicted_bits
from fewbits.coders.joined import nothing, offsets, trivial
from fewbits.coders.rans import Rans
from fewbits.coders.zstd import Zstd
from fewbits.errors import LocalError, WireError
from fewbits.spec import Spec
from fewbits.wire import BitReader, BitWriter

CHOICES: tuple[Coder, ...] = (Fixed(), Rans(), Zstd(), Elias("gamma"), Elias("delta"), Golomb())  # order is wire format
TAG_BITS = 3


@dataclass(frozen=True)
class Auto(Coder):
    """Write the shortest output of all coders, after three bits that name the coder.

    Of two equal outputs the earlier coder of `CHOICES` wins. Golomb and Elias are tried only where a bound from the
    counts says that they can win. Encoding takes about as long as all tried coders together; decoding is one coder.

    Example:
        >>> import numpy as np
        >>> spec, out = Spec((4,), "int8", -7, 7), BitWriter()
        >>> Auto().write(np.array([0, -1, 2, 0], np.int8), spec, out)
        >>> out.bits
        18
        >>> Auto().read(spec, BitReader(out.finish())).tolist()
        [0, -1, 2, 0]

    How it differs: there is no published counterpart; it is a brute-force choice.
    """

    wire_name: ClassVar[str] = "auto"

    floats = True

    def write(self, values: np.ndarray, spec: Spec, out: BitWriter) -> None:
        symbols = offsets(values, spec)
        if trivial(spec):
            return
        sizes = {tag: _size(CHOICES[tag], values, spec) for tag in _candidates(symbols, spec)}
        tag = min(sizes, key=lambda tag: (sizes[tag], tag))
        out.write(tag, TAG_BITS)
        CHOICES[tag].write(values, spec, out)

    def read(self, spec: Spec, src: BitReader) -> np.ndarray:
        if trivial(spec):
            return nothing(spec)
        tag = src.read(TAG_BITS)
        if tag >= len(CHOICES) or not (spec.integer or CHOICES[tag].floats):
            raise WireError(f"coder tag {tag} is none for {spec.dtype}")
        try:
            return CHOICES[tag].read(spec, src)
        except LocalError as error:  # the peer named a coder that refuses so many levels: its mistake, not ours
            raise WireError(f"coder tag {tag} is none for {spec.dtype}: {error}") from None

    @classmethod
    def examples(cls) -> Sequence[Auto]:
        return (cls(),)


def _candidates(symbols: np.ndarray, spec: Spec) -> list[int]:
    """Return the tags worth trying: Golomb and Elias are slow, so only where they can win."""
    if not spec.integer:
        return [0, 1, 2]
    if spec.levels > MAX_LEVELS or max(abs(spec.low or 0), abs(spec.high or 0)) > MAX_LEVELS:
        return [0, 1, 2]
    if spec.levels > 2**16:
        return [0, 1, 2, 3, 4]
    counts = kernels.bits.histogram(symbols, spec.levels)
    entropy = _entropy_bits(counts)
    return [0, 1, 2, 3, 4] + ([5] if predicted_bits(counts) < 1.05 * entropy + 4096 else [])


def _entropy_bits(counts: np.ndarray) -> float:
    some = counts[counts > 0]
    return float(np.dot(some, np.log2(some.sum() / some)))


def _size(coder: Coder, values: np.ndarray, spec: Spec) -> int:
    out = BitWriter()
    out.write(0, TAG_BITS)
    coder.write(values, spec, out)
    return out.bits
