"""FedDynServer: the server's half of FedDyn; the clients' half is `fewbits.learn.objectives.FedDyn`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fewbits.checks import check_factor
from fewbits.learn.optimizers.base import Moments, ServerOptimizer


@dataclass(frozen=True)
class FedDynServer(ServerOptimizer):
    """The server's half of FedDyn: the mean model, corrected by the mean of the clients' linear terms.

    ``h <- h - alpha (1/m) sum_{k in P} (w_k - w)``, ``w <- mean_{k in P} w_k - h / alpha``; P are the sampled of the m
    clients.

    Args:
        alpha: the same as in the clients' `FedDyn`.

    Raises:
        LocalError: alpha is not positive and finite.

    References:
        Acar et al., Federated Learning Based on Dynamic Regularization, ICLR 2021, Algorithm 1. Difference: the paper
        weighs clients alike; here both sums weigh a client by its number of examples. Then h is the weighted mean of
        all clients' g_k, and w tends to the minimiser of the weighted loss.
    """

    wire_name: ClassVar[str] = "fed_dyn_server"

    needs_objective: ClassVar[bool] = True

    alpha: float = 0.1  # that of the clients; larger: shorter steps

    def __post_init__(self) -> None:
        check_factor("FedDynServer: alpha", self.alpha)

    def init(self, numel: int) -> Moments:
        return (torch.zeros(numel),)

    def step(self, theta: Tensor, update: Tensor, moments: Moments, *, share: float = 1.0) -> tuple[Tensor, Moments]:
        (h,) = moments
        # update is w - mean w_k, and (1/m) sum_{k in P} is share times that mean
        h = h + update * (self.alpha * share)
        return theta - update - h / self.alpha, (h,)
