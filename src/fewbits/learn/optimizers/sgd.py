"""FedAvg (McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017).

With momentum FedAvgM (Hsu, Qi, Brown, Measuring the Effects of Non-Identical Data Distribution, 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fewbits.checks import check_number
from fewbits.learn.optimizers.base import Moments, ServerOptimizer


@dataclass(frozen=True)
class ServerSGD(ServerOptimizer):
    """theta -= lr * m, m = momentum * m + update.

    FedAvg (McMahan et al. 2017) with lr 1 and momentum 0; FedAvgM (Hsu et al. 2019).
    """

    wire_name: ClassVar[str] = "server_sgd"

    lr: float = 1.0  # larger: bolder
    momentum: float = 0.0  # in [0, 1)

    def __post_init__(self) -> None:
        check_number("ServerSGD: lr", self.lr, "(0, inf)", numpy=True)
        check_number("ServerSGD: momentum", self.momentum, "[0, 1)", numpy=True)

    def init(self, numel: int) -> Moments:
        """m = 0, if there is momentum."""
        return (torch.zeros(numel),) if self.momentum else ()

    def step(self, theta: Tensor, update: Tensor, moments: Moments, *, share: float = 1.0) -> tuple[Tensor, Moments]:
        """One step."""
        if self.momentum:
            update = moments[0] * self.momentum + update
            moments = (update,)
        return theta - update * self.lr, moments
