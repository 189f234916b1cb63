"""GeometricMedian: the point with the least sum of distances to all updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fewbits.checks import check_whole
from fewbits.learn.aggregation.aggregator import ChoosingRule

SMOOTH = 1e-6  # of the median distance: no distance counts as less


@dataclass(frozen=True)
class GeometricMedian(ChoosingRule):
    """The point with the least sum of distances to all updates, by Weiszfeld's iteration.

    ``u = argmin_z sum_k |z - u_k|``. From the mean on, ``z <- sum_k b_k u_k / sum_k b_k``, with
    ``b_k = 1 / max(|z - u_k|, nu)`` and nu a millionth of the median distance. What a client did not send is 0.

    Memory: all numbers that were sent in a round, in float32. Bytes: as for the mean. Time: n^2 inner products; the
    iterations work on these alone.

    Args:
        iterations: steps of Weiszfeld's iteration, 1 or more; larger: nearer to the median.

    Raises:
        LocalError: iterations is no whole number of at least 1.

    Example:
        >>> from fewbits.learn.aggregation.updates import Row, Updates
        >>> (u,) = GeometricMedian()([Updates([Row(torch.tensor([x])) for x in (1.0, 2.0, 2.5, 3.0, 1e9)], 1)])
        >>> bool(1.9 < u < 2.6)
        True

    References:
        Pillutla, Kakade, Harchaoui: Robust Aggregation for Federated Learning, IEEE Trans. Signal Processing 2022,
        Algorithm 2. Differences: clients count alike, and nu is relative.
    """

    wire_name: ClassVar[str] = "geometric_median"

    iterations: int = 32

    def __post_init__(self) -> None:
        check_whole("GeometricMedian: iterations", self.iterations, 1, numpy=True)

    def weights(self, gram: Tensor) -> Tensor:
        weights = torch.full((len(gram),), 1.0 / len(gram), dtype=torch.float64)
        for _ in range(self.iterations):
            products = gram @ weights
            away = (weights @ products - 2 * products + gram.diagonal()).clamp(min=0.0).sqrt()
            nearness = 1.0 / away.clamp(min=max(SMOOTH * float(away.median()), torch.finfo(torch.float32).tiny))
            weights = nearness / nearness.sum()
        return weights
