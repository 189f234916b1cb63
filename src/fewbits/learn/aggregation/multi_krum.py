"""MultiKrum: the mean of the updates that lie nearest to most others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fewbits.checks import check_number, check_whole
from fewbits.learn.aggregation.aggregator import ChoosingRule
from fewbits.learn.aggregation.krum import count_of, scores


@dataclass(frozen=True)
class MultiKrum(ChoosingRule):
    """The mean of the m updates with the least score of `Krum`.

    ``u = 1/m * sum of u_i over the m clients with the least s(i)``; f and s as for `Krum`.

    Memory: all numbers that were sent in a round, in float32. Bytes: as for the mean. Time: n^2 inner products.

    Args:
        liars: share of the clients that may lie, in [0, 0.5).
        chosen: m; 0: n - f.

    Raises:
        LocalError: an argument is out of range.

    Example:
        >>> from fewbits.learn.aggregation.updates import Row, Updates
        >>> MultiKrum(0.2)([Updates([Row(torch.tensor([x])) for x in (1.0, 2.0, 2.0, 3.0, 1e9)], 1)])
        [tensor([2.])]

    References:
        Blanchard, El Mhamdi, Guerraoui, Stainer: Machine Learning with Adversaries, NeurIPS 2017, section 5.
    """

    wire_name: ClassVar[str] = "multi_krum"

    liars: float = 0.2  # larger: more liars are survived, the mean is of fewer updates
    chosen: int = 0  # m; larger: less noise, more risk; 0: n - f

    def __post_init__(self) -> None:
        check_number("MultiKrum: liars", self.liars, "[0, 0.5)", numpy=True)
        check_whole("MultiKrum: chosen", self.chosen, 0, numpy=True)

    def weights(self, gram: Tensor) -> Tensor:
        n = len(gram)
        m = min(int(self.chosen) or n - count_of(self.liars, n), n)
        weights = torch.zeros(n)
        weights[scores(gram, self.liars).argsort(stable=True)[:m]] = 1.0 / m
        return weights
