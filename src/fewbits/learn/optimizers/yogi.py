"""FedYogi: Yogi at the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fewbits.checks import check_factor, check_number
from fewbits.learn.optimizers.base import Moments, ServerOptimizer


@dataclass(frozen=True)
class FedYogi(ServerOptimizer):
    """Yogi at the server, without bias correction.

    ``m = beta1 m + (1 - beta1) u``, ``v = v - (1 - beta2) u^2 sign(v - u^2)``, ``theta -= lr m / (sqrt(v) + tau)``; u
    is the mean update, old - new. Unlike in FedAdam, the change of v does not depend on its size, so that v decreases
    more slowly after a large update.

    Args:
        lr: step size, eta in the paper.
        beta1: decay of the mean of updates, in [0, 1).
        beta2: in [0, 1).
        tau: adaptivity, in the unit of an update; in [1e-38, 1e19], since float32 holds its square.

    Raises:
        LocalError: an argument is out of range.

    Example:
        >>> rule = FedYogi(lr=0.1)
        >>> theta, moments = rule.step(torch.zeros(2), torch.tensor([1.0, -1.0]), rule.init(2))
        >>> theta
        tensor([-0.0990,  0.0990])

    References:
        Reddi et al., Adaptive Federated Optimization, ICLR 2021, Algorithm 2. Difference: their Delta is minus our
        update.
    """

    wire_name: ClassVar[str] = "fed_yogi"

    lr: float = 1e-2  # larger: longer steps
    beta1: float = 0.9  # in [0, 1); larger: longer memory of past updates
    beta2: float = 0.99  # in [0, 1); larger: v changes less
    tau: float = 1e-3  # larger: less adaptive, closer to SGD

    def __post_init__(self) -> None:
        check_factor("FedYogi: lr", self.lr)
        for name, interval in (("beta1", "[0, 1)"), ("beta2", "[0, 1)"), ("tau", "[1e-38, 1e19]")):
            check_number(f"FedYogi: {name}", getattr(self, name), interval, numpy=True)

    def init(self, numel: int) -> Moments:
        return torch.zeros(numel), torch.full((numel,), self.tau**2)

    def step(self, theta: Tensor, update: Tensor, moments: Moments, *, share: float = 1.0) -> tuple[Tensor, Moments]:
        m, v = moments
        square = update.square()
        m = m * self.beta1 + update * (1 - self.beta1)
        v = v - square * torch.sign(v - square) * (1 - self.beta2)
        return theta - self.lr * m / (v.sqrt() + self.tau), (m, v)
