"""ServerSGD: a gradient step at the server, with or without momentum (FedAvg, FedAvgM, DiLoCo)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fewbits import kernels
from fewbits.checks import check_factor, check_flag, check_number
from fewbits.codecs import large
from fewbits.errors import LocalError
from fewbits.learn.optimizers.base import Moments, ServerOptimizer

LONG = 2**16  # numbers; one pass over so many costs less than several


@dataclass(frozen=True)
class ServerSGD(ServerOptimizer):
    """A gradient step at the server, with or without momentum.

    ``m = momentum * m + u``, ``theta -= lr * m``; u is the mean update, old - new. lr 1 and momentum 0 are FedAvg.
    Nesterov's momentum looks one step ahead: ``theta -= lr * (momentum * m + u)``, with the new m.

    Args:
        lr: step size.
        momentum: in [0, 1).
        nesterov: whether the momentum is Nesterov's, as torch.optim.SGD has it; it needs momentum above 0.

    Raises:
        LocalError: an argument is out of range, or nesterov stands without momentum.

    Example:
        >>> rule = ServerSGD()
        >>> rule.step(torch.ones(2), torch.tensor([0.5, -1.0]), rule.init(2))
        (tensor([0.5000, 2.0000]), ())
        >>> ServerSGD(lr=0.7, momentum=0.9, nesterov=True)
        ServerSGD(lr=0.7, momentum=0.9, nesterov=True)

    References:
        McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017; with
        momentum FedAvgM: Hsu, Qi and Brown, Measuring the Effects of Non-Identical Data Distribution, 2019. With
        Nesterov's it is the outer step of DiLoCo: Douillard et al., DiLoCo: Distributed Low-Communication Training of
        Language Models, 2023.
    """

    wire_name: ClassVar[str] = "server_sgd"

    lr: float = 1.0  # larger: longer steps
    momentum: float = 0.0  # in [0, 1); larger: longer memory of past updates
    nesterov: bool = False  # True: the step looks ahead along the new momentum

    def __post_init__(self) -> None:
        check_factor("ServerSGD: lr", self.lr)
        check_number("ServerSGD: momentum", self.momentum, "[0, 1)", numpy=True)
        check_flag("ServerSGD: nesterov", self.nesterov)
        if self.nesterov and not self.momentum:
            raise LocalError("ServerSGD: nesterov=True needs a momentum above 0, such as 0.9; got momentum=0")

    def init(self, numel: int) -> Moments:
        return (torch.zeros(numel),) if self.momentum else ()

    def step(self, theta: Tensor, update: Tensor, moments: Moments, *, share: float = 1.0) -> tuple[Tensor, Moments]:
        step = large.empty(theta.numel(), theta.dtype)  # the result, too: fresh memory costs more than a pass over it
        if self.momentum:
            moments = (torch.mul(moments[0], self.momentum, out=large.empty(theta.numel(), theta.dtype)).add_(update),)
            update = torch.mul(moments[0], self.momentum, out=step).add_(update) if self.nesterov else moments[0]
        torch.mul(update, self.lr, out=step)
        return torch.sub(theta, step, out=step), moments

    def step_(self, theta: Tensor, update: Tensor, moments: Moments) -> None:
        """The same bits in place, in one pass over long vectors; the vectors may be parts of longer ones."""
        used = (theta, update, *moments)
        if len(theta) >= LONG and all(x.is_cpu and x.is_contiguous() and x.dtype == theta.dtype for x in used):
            vectors = theta.numpy(), update.numpy(), moments[0].numpy() if moments else None
            kernels.steps.sgd(*vectors, float(self.lr), float(self.momentum), self.nesterov)
            return
        if moments:
            along = moments[0].mul_(self.momentum).add_(update)
            update = torch.mul(along, self.momentum).add_(update) if self.nesterov else along
        theta.sub_(torch.mul(update, self.lr))

    def reach(self, theta: float, update: float, momentum: float) -> tuple[float, float]:
        """Bounds of |theta| and |m| after a step, from bounds before it."""
        after = self.momentum * momentum + update
        return theta + self.lr * (self.momentum * after + update if self.nesterov else after), after
