"""Aggregator: what a server takes in place of the mean, by coordinates or by choosing among clients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from fewbits.learn.aggregation.updates import Updates


class Aggregator(ABC):
    """Base of robust means: a frozen value that makes one vector of the clients' vectors.

    Every client counts once, whatever its number of examples, because that number is the client's word.
    """

    wire_name: ClassVar[str]

    @abstractmethod
    def __call__(self, groups: Sequence[Updates]) -> list[Tensor]:
        """One vector per group of tensors; the rows of all groups are the same clients'.  # (size,) each"""


class CoordinateRule(Aggregator):
    """An aggregator that looks at one coordinate after the other.

    Those few who sent a coordinate may all be liars. So under sparse codecs, longer vectors are shortened to the median
    norm first.
    """

    def __call__(self, groups: Sequence[Updates]) -> list[Tensor]:
        return [(group.shortened() if group.sparse else group).by_column(self.column) for group in groups]

    def column(self, values: Tensor, sent: Tensor | None) -> Tensor:
        """The rule over those clients that sent a coordinate, times their share of all clients.  # (n, c) -> (c,)"""
        n = len(values)
        if sent is None:
            return self.of_sorted(values.sort(dim=0).values, torch.full((values.shape[1],), n))
        count = sent.sum(0)
        ranked = values.masked_fill(~sent, torch.inf).sort(dim=0).values
        return torch.where(count > 0, self.of_sorted(ranked, count.clamp(min=1)) * (count / n), 0.0)

    @abstractmethod
    def of_sorted(self, ranked: Tensor, count: Tensor) -> Tensor:
        """The rule over the first `count` of each column, which ascend.  # (n, c), (c,) -> (c,)"""


class ChoosingRule(Aggregator):
    """An aggregator that gives each client a weight, by the inner products of all updates."""

    def __call__(self, groups: Sequence[Updates]) -> list[Tensor]:
        gram = torch.stack([group.gram() for group in groups]).sum(0)
        # In float32, which hides the last bits of the products: they may depend on the number of threads.
        weights = self.weights(gram).to(torch.float32).tolist()
        return [group.mixed(weights) for group in groups]

    @abstractmethod
    def weights(self, gram: Tensor) -> Tensor:
        """Weights that sum to 1.  # (n, n) float64 -> (n,)"""


def squared_distances(gram: Tensor) -> Tensor:
    """|x_i - x_j|^2 of all pairs.  # (n, n)"""
    squares = gram.diagonal()
    return (squares[:, None] + squares[None, :] - 2 * gram).clamp(min=0.0)
