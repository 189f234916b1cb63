"""CoordinateMedian: the median of each coordinate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fewbits.learn.aggregation.aggregator import CoordinateRule


@dataclass(frozen=True)
class CoordinateMedian(CoordinateRule):
    """The median of each coordinate; of two middle values, their mean.

    ``u_j = |S_j|/n * median_{k in S_j} u_kj``; S_j are those of the n clients that sent coordinate j. Under a dense
    codec that is everybody, and the first factor is 1. Under a sparse one, longer vectors are first shortened to the
    median norm.

    Memory: all numbers that were sent in a round, in float32. Bytes: as for the mean. Time: a sort of each column.

    Example:
        >>> import torch
        >>> from fewbits.learn.aggregation.updates import Row, Updates
        >>> CoordinateMedian()([Updates([Row(torch.tensor([x])) for x in (1.0, 2.0, 1e9)], 1)])
        [tensor([2.])]

    References:
        Yin, Chen, Ramchandran, Bartlett: Byzantine-Robust Distributed Learning, ICML 2018, Algorithm 1, option I.
        Differences: the factor |S_j|/n, and the shortening. A median that takes what was not sent for 0 is 0 nearly
    everywhere; and those few who sent a coordinate may all be liars.
    """

    wire_name: ClassVar[str] = "coordinate_median"

    def of_sorted(self, ranked: Tensor, count: Tensor) -> Tensor:
        low, high = (ranked.gather(0, at[None])[0] for at in ((count - 1) // 2, count // 2))
        return 0.5 * low + 0.5 * high
