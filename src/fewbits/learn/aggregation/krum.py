"""Krum: the update that lies nearest to most others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fewbits.checks import check_number
from fewbits.learn.aggregation.aggregator import ChoosingRule, squared_distances


@dataclass(frozen=True)
class Krum(ChoosingRule):
    """The update of the one client that lies nearest to most others.

    ``u = u_i with the least s(i) = sum over the n - f - 2 nearest j of |u_i - u_j|^2``, with ``f = ceil(liars * n)``,
    but at most (n - 3) // 2. What a client did not send is 0 in the distances.

    Memory: all numbers that were sent in a round, in float32. Bytes: as for the mean. Time: n^2 inner products.

    Args:
        liars: share of the clients that may lie, in [0, 0.5).

    Raises:
        LocalError: liars is outside [0, 0.5).

    Example:
        >>> from fewbits.learn.aggregation.updates import Row, Updates
        >>> Krum(0.2)([Updates([Row(torch.tensor([x])) for x in (1.0, 2.0, 1.9, 3.0, 1e9)], 1)])
        [tensor([1.9000])]

    References:
        Blanchard, El Mhamdi, Guerraoui, Stainer: Machine Learning with Adversaries, NeurIPS 2017, section 4.
        Difference: f is a share of those that arrived.
    """

    wire_name: ClassVar[str] = "krum"

    liars: float = 0.2  # larger: more liars are survived, fewer neighbours decide

    def __post_init__(self) -> None:
        check_number("Krum: liars", self.liars, "[0, 0.5)", numpy=True)

    def weights(self, gram: Tensor) -> Tensor:
        weights = torch.zeros(len(gram))
        weights[int(scores(gram, self.liars).argmin())] = 1.0
        return weights


def count_of(liars: float, n: int) -> int:
    """f = ceil(liars * n), within what n clients can bear."""
    return max(0, min(math.ceil(round(liars * n, 6)), (n - 3) // 2))


def scores(gram: Tensor, liars: float) -> Tensor:
    """s(i), the sum of squared distances to the nearest n - f - 2 others.  # (n, n) -> (n,)"""
    n = len(gram)
    nearest = squared_distances(gram).fill_diagonal_(torch.inf).sort(dim=1).values
    return nearest[:, : max(0, min(n - 1, max(1, n - count_of(liars, n) - 2)))].sum(1)
