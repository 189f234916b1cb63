"""FedDyn: the clients' half; the server's half is `fewbits.learn.optimizers.FedDynServer`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fewbits.checks import check_factor
from fewbits.learn.objective import Objective, Term, Vectors
from fewbits.learn.optimizers.dyn import FedDynServer


@dataclass(frozen=True)
class FedDyn(Objective):
    """Dynamic regularisation: each client minimises its loss minus a linear term, near the round's model.

    ``min L_i(w) - <g_i, w> + alpha/2 |w - w^t|^2``, then ``g_i <- g_i - alpha (w_i - w^t)``. w^t are the weights at
    the start of the round, w_i those at its end. The client keeps g_i, which is the gradient of L_i at w_i when w_i is
    the minimiser. Client and server need the same alpha; `server` returns the server's half.

    Args:
        alpha: strength of the regulariser; in units of 1/lr.

    Raises:
        LocalError: alpha is not positive and finite.

    Example:
        >>> FedDyn(alpha=0.1).server()
        FedDynServer(alpha=0.1)

    References:
        Acar et al., Federated Learning Based on Dynamic Regularization, ICLR 2021, Algorithm 1. Difference: the paper
        assumes the minimiser; here, as in the authors' experiments, w_i is the result of `LocalSGD`.
    """

    wire_name: ClassVar[str] = "fed_dyn"

    client_vectors: ClassVar[int] = 1

    alpha: float = 0.1  # larger: clients stay closer to w^t, and the server takes shorter steps

    def __post_init__(self) -> None:
        check_factor("FedDyn: alpha", self.alpha)

    def server(self) -> FedDynServer:
        return FedDynServer(self.alpha)

    def term(self, start: Tensor, server_vectors: Vectors, client_vectors: Vectors) -> Term | None:
        (g_i,) = client_vectors
        gap = torch.empty_like(start)

        def add(w: Tensor, g: Tensor) -> None:
            g.add_(torch.sub(w, start, out=gap), alpha=self.alpha).sub_(g_i)

        return add

    def finish(
        self, start: Tensor, end: Tensor, server_vectors: Vectors, client_vectors: Vectors, steps: int, lr: float
    ) -> tuple[Vectors, Vectors]:
        (g_i,) = client_vectors
        return (g_i - (end - start) * self.alpha,), ()
