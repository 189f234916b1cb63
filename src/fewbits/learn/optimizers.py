"""Server optimisers: a step on the server's model from the clients' mean update."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from fewbits.errors import LocalError

Moments = tuple[Tensor, ...]


class ServerOptimizer(ABC):
    """Frozen value; `step` is pure. `update` is the clients' weighted mean of start - end: a pseudo-gradient."""

    @abstractmethod
    def init(self, numel: int) -> Moments:
        """The moments before the first step, each  # (numel,)."""

    @abstractmethod
    def step(self, theta: Tensor, update: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
        """(new theta, new moments), all  # (numel,)."""


@dataclass(frozen=True)
class ServerSGD(ServerOptimizer):
    """theta -= lr * m, m = momentum * m + update.

    FedAvg (McMahan et al. 2017) with lr 1 and momentum 0; FedAvgM (Hsu et al. 2019).
    """

    lr: float = 1.0  # larger: bolder
    momentum: float = 0.0  # in [0, 1)

    def __post_init__(self) -> None:
        if not (self.lr > 0 and 0 <= self.momentum < 1):
            raise LocalError(f"ServerSGD: lr must be > 0 and momentum in [0, 1); got {self.lr} and {self.momentum}")

    def init(self, numel: int) -> Moments:
        """m = 0, if there is momentum."""
        return (torch.zeros(numel),) if self.momentum else ()

    def step(self, theta: Tensor, update: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
        """One step."""
        if self.momentum:
            update = moments[0] * self.momentum + update
            moments = (update,)
        return theta - update * self.lr, moments


@dataclass(frozen=True)
class FedAdam(ServerOptimizer):
    """Adam at the server (Reddi et al. 2021, Algorithm 2, without bias correction, as there)."""

    lr: float = 1e-2  # eta
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3  # larger: less adaptive

    def __post_init__(self) -> None:
        if not (self.lr > 0 and 0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and self.tau > 0):
            raise LocalError(f"FedAdam: lr and tau must be > 0 and betas in [0, 1); got {self}")

    def init(self, numel: int) -> Moments:
        """m = 0, v = tau^2."""
        return torch.zeros(numel), torch.full((numel,), self.tau**2)

    def step(self, theta: Tensor, update: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
        """m and v, then theta -= lr * m / (sqrt(v) + tau)."""
        m = moments[0] * self.beta1 + update * (1 - self.beta1)
        v = moments[1] * self.beta2 + update.square() * (1 - self.beta2)
        return theta - self.lr * m / (v.sqrt() + self.tau), (m, v)
