"""TopK: the entries of largest magnitude."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from fewbits import kernels
from fewbits.checks import check_number, check_whole
from fewbits.codecs.base import Keys, Transform
from fewbits.codecs.transforms.sparse import Sparse, magnitudes
from fewbits.spec import Contract, Spec


@dataclass(frozen=True, repr=False)
class TopK(Sparse):
    """Keep the entries of largest magnitude; the rest become zero.

    C(x)_i = x_i for the k = ceil(fraction * n) largest |x_i|, else 0. |C(x) - x|^2 <= (1 - k/n) |x|^2. With a `chunk`,
    each piece of so many entries keeps its own ceil(fraction * chunk) largest; the last piece may be shorter.

    Args:
        fraction: share of the entries that travel, in (0, 1]; smaller: fewer bytes, slower convergence.
        chunk: entries of a piece, 1 or more; None: the whole vector is one. Every piece, and so every layer, is heard.

    Raises:
        LocalError: fraction is outside (0, 1]; chunk is not a whole number of at least 1.

    Example:
        >>> import torch
        >>> from fewbits import Key, Receiver, Sender, Spec, TopK
        >>> x = torch.tensor([0.5, -3.0, 0.0, 2.0])
        >>> Receiver(TopK(0.5), Spec.of(x)).receive(Sender(TopK(0.5), Spec.of(x), Key(0)).send(x))
        tensor([ 0., -3.,  0.,  2.])

    Source: Stich, Cordonnier, Jaggi 2018; chunks, SparseLoCo (arXiv 2508.15706), with 64 of 4,096. Different here:
    positions travel as one sorted set, not as 12 bits each; ties go to the lower index, unlike torch.topk, so that
    bytes do not depend on the device; zeros are never chosen; magnitudes are compared in float32.
    """

    wire_name: ClassVar[str] = "topk"

    fraction: float
    chunk: int | None = None

    def __post_init__(self) -> None:
        check_number("TopK: fraction", self.fraction, "(0, 1]")
        object.__setattr__(self, "fraction", float(self.fraction))
        if self.chunk is not None:
            check_whole("TopK: chunk", self.chunk, 1, hint=", or None for the whole vector")

    def __repr__(self) -> str:
        chunk = "" if self.chunk is None else f", chunk={self.chunk}"
        return f"TopK(fraction={self.fraction!r}{chunk})"

    def _pieces(self, spec: Spec) -> list[tuple[int, int, int]]:
        """(how many, entries of each, entries that each keeps) of the whole pieces and of a shorter one after them."""
        chunk = min(self.chunk or spec.numel, spec.numel) or 1
        whole, rest = divmod(spec.numel, chunk)
        return [(whole, chunk, count(self.fraction, chunk)), (int(rest > 0), rest, count(self.fraction, rest))]

    def most(self, spec: Spec) -> int:
        """k = ceil(fraction*n), of each piece."""
        if self.chunk is None:
            return count(self.fraction, spec.numel)
        return sum(pieces * k for pieces, _, k in self._pieces(spec))

    def select(self, x: Tensor, spec: Spec, keys: Keys) -> np.ndarray:
        if self.chunk is None:
            return kernels.select.largest(magnitudes(x), self.most(spec))
        (_, chunk, k), (_, _, last) = self._pieces(spec)
        return kernels.chunks.largest(magnitudes(x), chunk, k, last)

    def contract(self, spec: Spec) -> Contract:
        """delta = k/n of the piece that keeps the smallest share; lossless when all are kept."""
        shares = [k / entries for pieces, entries, k in self._pieces(spec) if pieces]
        return Contract(delta=min(shares, default=1.0), bounded=True)

    @classmethod
    def examples(cls) -> Sequence[Transform]:
        return [cls(0.01), cls(0.1), cls(1.0), cls(0.25, chunk=8), cls(0.1, chunk=1)]


def count(fraction: float, n: int) -> int:
    """ceil(fraction*n), at least 1 of n > 0, safe against 0.07 * 100 = 7.000000000000001."""
    return min(n, max(1, math.ceil(round(fraction * n, 6))))
