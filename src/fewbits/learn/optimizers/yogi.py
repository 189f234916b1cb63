"""FedYogi (Reddi et al., Adaptive Federated Optimization, ICLR 2021, Algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fewbits.checks import check_number
from fewbits.learn.optimizers.base import Moments, ServerOptimizer


@dataclass(frozen=True)
class FedYogi(ServerOptimizer):
    """Yogi at the server (Reddi et al. 2021, Algorithm 2, without bias correction, as there).

    FedAdam with another v: it moves towards the update's square by an amount that does not depend on v, so that it
    forgets a large update more slowly. Their Delta is minus our update.
    """

    wire_name: ClassVar[str] = "fed_yogi"

    lr: float = 1e-2  # eta
    beta1: float = 0.9  # in [0, 1); larger: longer memory of past updates
    beta2: float = 0.99  # in [0, 1); larger: v moves less
    tau: float = 1e-3  # larger: less adaptive

    def __post_init__(self) -> None:
        for name, interval in (("lr", "(0, inf)"), ("beta1", "[0, 1)"), ("beta2", "[0, 1)"), ("tau", "(0, inf)")):
            check_number(f"FedYogi: {name}", getattr(self, name), interval, numpy=True)

    def init(self, numel: int) -> Moments:
        """m = 0, v = tau^2."""
        return torch.zeros(numel), torch.full((numel,), self.tau**2)

    def step(self, theta: Tensor, update: Tensor, moments: Moments, *, share: float = 1.0) -> tuple[Tensor, Moments]:
        """m and v -= (1 - beta2) * update^2 * sign(v - update^2), then theta -= lr * m / (sqrt(v) + tau)."""
        m, v = moments
        square = update.square()
        m = m * self.beta1 + update * (1 - self.beta1)
        v = v - square * torch.sign(v - square) * (1 - self.beta2)
        return theta - self.lr * m / (v.sqrt() + self.tau), (m, v)
