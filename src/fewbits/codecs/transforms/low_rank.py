"""LowRank: a vector, or each tensor in it, as a matrix of low rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewbits import kernels
from fewbits.checks import check_one_of, check_whole
from fewbits.codecs.base import Keys, Transform, wide
from fewbits.rng import Key
from fewbits.spec import Contract, Spec

PER = ("tensor", "whole")


class Piece(NamedTuple):
    """A stretch of the vector as a matrix, laid row after row and filled up with zeros; or as it is."""

    start: int  # in the vector
    numel: int
    m: int  # rows
    n: int  # columns
    rank: int  # 0: as it is, because factors would be no smaller

    @property
    def numbers(self) -> int:
        """Entries of the message."""
        return self.rank * (self.m + self.n) if self.rank else self.numel


@dataclass(frozen=True)
class LowRank(Transform):
    """Send a matrix as two thin factors.

    P <- orth(M Q), Q <- M^T P, `passes` times; r (m + n) numbers travel for m n, and P Q^T = P P^T M arrives, an
    orthogonal projection. E|P P^T M|^2 >= r / min(m, n) |M|^2.

    Args:
        rank: r; larger: more bytes, more of the matrix arrives.
        passes: 1 or more; more: nearer to the best matrix of this rank, for the same bytes.
        per: a matrix for each "tensor", or for the "whole" vector.
        columns: entries in a row of every matrix; None: near-square. A Spec knows lengths and not shapes, so give a
            weight's inputs here, with `route`: what is of low rank in its own shape is of full rank in another.

    Raises:
        LocalError: an option is none of these.

    Example:
        >>> import torch
        >>> from fewbits import Key, LowRank, Receiver, Sender, Spec
        >>> x = torch.outer(torch.arange(8.0), torch.ones(8))
        >>> found = Receiver(LowRank(1), Spec.of(x)).receive(Sender(LowRank(1), Spec.of(x), Key(0)).send(x))
        >>> bool(torch.allclose(found, x, atol=1e-5))
        True

    Source: PowerSGD, Vogels, Karimireddy, Jaggi 2019, Algorithm 1. Different here: without its memory, so Q starts at
    normal draws from the common key in each message; P and Q are scaled to be about as large as each other; not
    linear, because the two all-reduces of PowerSGD would need a second exchange.
    """

    wire_name: ClassVar[str] = "low_rank"

    rank: int
    passes: int = 1
    per: str = "tensor"
    columns: int | None = None

    def __post_init__(self) -> None:
        check_whole("LowRank: rank", self.rank, 1)
        check_whole("LowRank: passes", self.passes, 1)
        if self.columns is not None:
            check_whole("LowRank: columns", self.columns, 1)
        check_one_of("LowRank: per", self.per, PER)

    def pieces(self, spec: Spec) -> list[Piece]:
        """The matrices of a vector."""
        lengths = spec.segments if self.per == "tensor" and spec.segments else (spec.numel,)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return [self._piece(int(start), length) for start, length in zip(starts, lengths, strict=False)]

    def _piece(self, start: int, numel: int) -> Piece:
        if not numel:
            return Piece(start, 0, 0, 0, 0)
        n = min(self.columns or -(-numel // (math.isqrt(numel - 1) + 1)), numel)
        m = -(-numel // n)
        return Piece(start, numel, m, n, self.rank if self.rank * (m + n) < numel else 0)

    def split(self, x: Tensor, spec: Spec, keys: Keys) -> tuple[None, Tensor]:
        """Each piece's P, then its Q, row of their transposes after row."""
        values = x.detach().cpu().to(wide(spec).torch_dtype).contiguous().numpy()
        key = keys.common.fold("low_rank")
        out = np.empty(self.carrier(None, spec).numel, values.dtype)
        at = 0
        for i, piece in enumerate(self.pieces(spec)):
            part = values[piece.start : piece.start + piece.numel]
            out[at : at + piece.numbers] = self._factors(part, piece, key.fold(i)) if piece.rank else part
            at += piece.numbers
        return None, torch.from_numpy(out)

    def _factors(self, x: np.ndarray, piece: Piece, key: Key) -> np.ndarray:
        """2^a P and 2^-a Q, which have largest entries of about one size: none leaves the range, or its digits."""
        exponent = int(np.frexp(np.abs(x).max())[1])
        matrix = np.zeros(piece.m * piece.n, x.dtype)
        matrix[: piece.numel] = np.ldexp(x, -exponent)  # exact, and squares stay in range
        matrix = matrix.reshape(piece.m, piece.n)
        q = key.normal(piece.rank * piece.n).reshape(piece.rank, piece.n).astype(np.float64)
        p = q
        for _ in range(self.passes):
            p = kernels.low_rank.orthonormalise(kernels.low_rank.times(matrix, q))
            q = kernels.low_rank.times_transposed(matrix, p)
        of_p, of_q = (int(np.frexp(np.abs(factor).max())[1]) for factor in (p, q))
        shift = (exponent + of_q - of_p) // 2
        p, q = np.ldexp(p, shift), np.ldexp(q, exponent - shift)
        return np.concatenate([p.reshape(-1), q.reshape(-1)])

    def join(self, side: None, carrier: Tensor, spec: Spec) -> Tensor:
        """P Q^T of each piece, cut to its length; within the range of spec's type."""
        values = carrier.to(wide(spec).torch_dtype).numpy()
        if not bool(np.isfinite(values).all()):  # the link refuses NaN
            return torch.full((spec.numel,), torch.nan, dtype=spec.torch_dtype)
        out = np.empty(spec.numel, values.dtype)
        at = 0
        for piece in self.pieces(spec):
            part = values[at : at + piece.numbers]
            out[piece.start : piece.start + piece.numel] = _product(part, piece) if piece.rank else part
            at += piece.numbers
        largest = torch.finfo(spec.torch_dtype).max
        return torch.from_numpy(out).clamp_(-largest, largest).to(spec.torch_dtype)

    def carrier(self, side: Any, spec: Spec) -> Spec:
        return replace(wide(spec), shape=(sum(piece.numbers for piece in self.pieces(spec)),), segments=())

    def contract(self, spec: Spec) -> Contract:
        """delta = r / min(m, n) of the worst piece; lossless when all pieces travel as they are.

        Let U be an orthonormal basis of the r random directions within M's row space. P spans M U, so
        |P P^T M|^2 >= |P P^T M U U^T|^2 = |M U|^2, which is r / rank(M) |M|^2 on average; a further pass only adds.
        """
        ranked = [piece.rank / min(piece.m, piece.n) for piece in self.pieces(spec) if piece.rank]
        if not ranked:
            return Contract(lossless=True, omega=0.0, delta=1.0, payload_bits=0)
        return Contract(delta=min(ranked) if wide(spec) == spec else None, payload_bits=0)

    @classmethod
    def examples(cls) -> Sequence[Transform]:
        return [cls(1), cls(2), cls(2, passes=2, per="whole"), cls(3, per="whole"), cls(1, columns=7), cls(64)]


def _product(factors: np.ndarray, piece: Piece) -> np.ndarray:
    p, q = np.split(factors, [piece.rank * piece.m])
    product = kernels.low_rank.expand(p.reshape(piece.rank, piece.m), q.reshape(piece.rank, piece.n))
    return product.reshape(-1)[: piece.numel]
