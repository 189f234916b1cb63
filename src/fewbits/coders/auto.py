"""Try every coder, keep the shortest output."""

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
    """Try every coder and keep the shortest output.

    Three bits name the coder, then its output follows; of equal lengths the earlier coder of `CHOICES` wins.

    Raises:
        LocalError: at encoding, a value is none of the levels.

    Example:
        >>> import torch
        >>> from fewbits import Auto, Key, Quantize, Sender, Spec, chain
        >>> x = torch.zeros(8000)
        >>> x[0] = 1.0
        >>> len(Sender(chain(Quantize(bits=4), Auto()), Spec.of(x), Key(0)).send(x)) < 40
        True

    Source: ours.
    """

    wire_name: ClassVar[str] = "auto"

    floats = True

    def write(self, values: np.ndarray, spec: Spec, out: BitWriter) -> None:
        """Append the shortest; about the time of all coders together."""
        symbols = offsets(values, spec)
        if trivial(spec):
            return
        sizes = {tag: _size(CHOICES[tag], values, spec) for tag in _candidates(symbols, spec)}
        tag = min(sizes, key=lambda tag: (sizes[tag], tag))
        out.write(tag, TAG_BITS)
        CHOICES[tag].write(values, spec, out)

    def read(self, spec: Spec, src: BitReader) -> np.ndarray:
        """Read them back with the coder that the tag names; WireError for one that cannot have been used."""
        if trivial(spec):
            return nothing(spec)
        tag = src.read(TAG_BITS)
        if tag >= len(CHOICES) or not (spec.integer or CHOICES[tag].floats):
            raise WireError(f"coder tag {tag} is none for {spec.dtype}")
        try:
            return CHOICES[tag].read(spec, src)
        except LocalError as error:  # the peer named a coder that does not take so many levels
            raise WireError(f"coder tag {tag} is none for {spec.dtype}: {error}") from None

    @classmethod
    def examples(cls) -> Sequence[Auto]:
        return (cls(),)


def _candidates(symbols: np.ndarray, spec: Spec) -> list[int]:
    """Tags worth trying: Golomb's and Elias' time is spent only where they can win."""
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
