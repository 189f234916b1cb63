"""TrimmedMean: the mean of each coordinate without its extremes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fewbits.checks import check_number
from fewbits.learn.aggregation.aggregator import CoordinateRule


@dataclass(frozen=True)
class TrimmedMean(CoordinateRule):
    """The mean of each coordinate without its largest and its smallest values.

    ``u_j = |S_j|/n * mean of the middle |S_j| - 2b values u_kj, k in S_j``, with ``b = ceil(trim * |S_j|)``, but at
    least one value stays. S_j are those of the n clients that sent coordinate j. Under a sparse codec, longer vectors
    are first shortened to the median norm.

    Memory: all numbers that were sent in a round, in float32. Bytes: as for the mean. Time: a sort of each column.

    Args:
        trim: share of the values that is left out on each side, in [0, 0.5); at least the share of liars.

    Raises:
        LocalError: trim is outside [0, 0.5).

    Example:
        >>> from fewbits.learn.aggregation.updates import Row, Updates
        >>> TrimmedMean(0.2)([Updates([Row(torch.tensor([x])) for x in (-1e9, 1.0, 2.0, 3.0, 1e9)], 1)])
        [tensor([2.])]

    References:
        Yin, Chen, Ramchandran, Bartlett: Byzantine-Robust Distributed Learning, ICML 2018, Algorithm 1, option II.
        Differences: the factor |S_j|/n, the shortening, and b is rounded up, so that few senders are trimmed, too.
    """

    wire_name: ClassVar[str] = "trimmed_mean"

    trim: float = 0.2  # larger: more liars are survived, the mean is of fewer values

    def __post_init__(self) -> None:
        check_number("TrimmedMean: trim", self.trim, "[0, 0.5)", numpy=True)

    def of_sorted(self, ranked: Tensor, count: Tensor) -> Tensor:
        cut = torch.minimum(torch.ceil(count * float(self.trim) - 1e-6).long(), (count - 1) // 2)
        rank = torch.arange(len(ranked))[:, None]
        middle = (rank >= cut) & (rank < count - cut)
        return (ranked.masked_fill(~middle, 0.0) / (count - 2 * cut)).sum(0)
