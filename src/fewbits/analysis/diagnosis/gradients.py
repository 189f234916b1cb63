"""The number of directions in a sequence of gradients, and how often a gradient repeats an earlier one.

All figures but `top_energy` follow from the n x n inner products of the gradients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from fewbits.errors import LocalError

CHUNK = 1 << 18  # columns that are widened to float64 at a time
ROUNDING = 1e-9  # a share of 0.95 is reached by 0.95 - this


def gram(rows: Tensor) -> np.ndarray:
    """All inner products, summed in float64.  # (n, D) -> (n, n)

    LocalError when `rows` is not a matrix, or a value is not finite.
    """
    if rows.dim() != 2 or not len(rows):
        raise LocalError(f"gram: expected gradients as the rows of a matrix; got shape {tuple(rows.shape)}")
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for part in rows.split(CHUNK, dim=1):
        wide = part.double()
        total += wide @ wide.T
    if not bool(torch.isfinite(total).all()):
        raise LocalError("gram: the gradients have values that are not finite; train with a smaller learning rate")
    return total.numpy()


def cosines(products: np.ndarray) -> np.ndarray:
    """Cosine similarities from inner products; a zero gradient is similar to none, itself included.  # (n, n)"""
    norms = np.sqrt(np.diag(products))
    scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    return np.clip(products * scale[:, None] * scale, -1.0, 1.0)


def spectrum(products: np.ndarray) -> np.ndarray:
    """The share of sum |g|^2 along each principal component, descending; zeros if all is zero.  # (n, n) -> (n,)

    Squared singular values of the gradients' matrix, from the eigenvalues of its inner products. The mean is not
    subtracted: it is a direction that clients must send like any other.
    """
    values = np.maximum(np.linalg.eigvalsh(products)[::-1], 0.0)
    return values / whole if (whole := values.sum()) > 0 else values


def components(shares: np.ndarray, share: float) -> int:
    """The fewest principal components that hold `share` of the variance (N95, N99 of Azam et al. 2022); of zeros, 0."""
    if not 0 < share <= 1:
        raise LocalError(f"components: the share of the variance must be above 0 and at most 1; got {share}")
    sums = np.cumsum(shares)
    return int(np.searchsorted(sums, share * sums[-1] - ROUNDING) + 1) if sums[-1] > 0 else 0


def recycled(similar: np.ndarray, threshold: float) -> float:
    """The share of rounds in which LBGM would send one scalar, if the rows were one client's updates.

    The rule uses cosines only: recycle when 1 - cos^2 with the last row sent in full is at most the threshold; else
    send the row in full. The first row is sent in full.
    """
    last, scalars = 0, 0
    for row in range(1, len(similar)):
        if 1 - similar[row, last] ** 2 <= threshold:
            scalars += 1
        else:
            last = row
    return scalars / len(similar)


def top_energy(rows: Tensor, fraction: float) -> float:
    """The share of |g|^2 in the ceil(fraction D) largest entries of a gradient, median over the rows that are not zero.

    `fraction` itself if all entries were equally large; 0 when all rows are zero.
    """
    if not 0 < fraction <= 1:
        raise LocalError(f"top_energy: the fraction must be above 0 and at most 1; got {fraction}")
    keep, found = math.ceil(fraction * rows.shape[1]), []
    for row in rows:
        squares = row.double().square()
        if whole := float(squares.sum()):
            found.append(float(torch.topk(squares, keep, sorted=False).values.sum()) / whole)
    return float(np.median(found)) if found else 0.0


def growth(products: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Components for 95% and 99% of the variance of the first 1, 2, ..., n gradients (Azam et al. 2022, fig. 1)."""
    parts = [spectrum(products[:k, :k]) for k in range(1, len(products) + 1)]
    return tuple((components(shares, 0.95), components(shares, 0.99)) for shares in parts)


@dataclass(frozen=True)
class Directions:
    """The figures of one sequence of n gradients."""

    n95: int  # components for 95% of the variance
    n99: int
    unit_n95: int  # of the gradients scaled to length 1, so that long ones do not outweigh the rest
    unit_n99: int
    shares: tuple[float, ...]  # of the variance, per component, descending
    cosines: tuple[tuple[float, ...], ...]  # n x n
    neighbours: float  # median cosine of one gradient with the next; 0 for a single one
    recycled: float  # share of rounds that LBGM would recycle at `threshold`
    threshold: float

    @classmethod
    def of(cls, products: np.ndarray, threshold: float) -> Self:
        """From the inner products of the gradients, in their order in time."""
        shares, similar = spectrum(products), cosines(products)
        unit = spectrum(similar)
        return cls(
            n95=components(shares, 0.95),
            n99=components(shares, 0.99),
            unit_n95=components(unit, 0.95),
            unit_n99=components(unit, 0.99),
            shares=tuple(shares.tolist()),
            cosines=tuple(map(tuple, similar.tolist())),
            neighbours=float(np.median(np.diag(similar, 1))) if len(similar) > 1 else 0.0,
            recycled=recycled(similar, threshold),
            threshold=threshold,
        )
