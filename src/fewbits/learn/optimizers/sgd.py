"""ServerSGD: a gradient step at the server, with or without momentum (FedAvg, FedAvgM)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fewbits.checks import check_number
from fewbits.learn.optimizers.base import Moments, ServerOptimizer


@dataclass(frozen=True)
class ServerSGD(ServerOptimizer):
    """A gradient step at the server, with or without momentum.

    ``m = momentum * m + u``, ``theta -= lr * m``; u is the mean update, old - new. lr 1 and momentum 0 are FedAvg.

    Args:
        lr: step size.
        momentum: in [0, 1).

    Raises:
        LocalError: an argument is out of range.

    Example:
        >>> rule = ServerSGD()
        >>> rule.step(torch.ones(2), torch.tensor([0.5, -1.0]), rule.init(2))
        (tensor([0.5000, 2.0000]), ())

    References:
        McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017; with
        momentum FedAvgM: Hsu, Qi and Brown, Measuring the Effects of Non-Identical Data Distribution, 2019.
    """

    wire_name: ClassVar[str] = "server_sgd"

    lr: float = 1.0  # larger: longer steps
    momentum: float = 0.0  # in [0, 1); larger: longer memory of past updates

    def __post_init__(self) -> None:
        check_number("ServerSGD: lr", self.lr, "(0, inf)", numpy=True)
        check_number("ServerSGD: momentum", self.momentum, "[0, 1)", numpy=True)

    def init(self, numel: int) -> Moments:
        return (torch.zeros(numel),) if self.momentum else ()

    def step(self, theta: Tensor, update: Tensor, moments: Moments, *, share: float = 1.0) -> tuple[Tensor, Moments]:
        if self.momentum:
            update = moments[0] * self.momentum + update
            moments = (update,)
        return theta - update * self.lr, moments
