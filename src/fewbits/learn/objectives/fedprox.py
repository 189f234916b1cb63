"""FedProx: a proximal term that holds clients near the model of the round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fewbits.checks import check_factor
from fewbits.learn.objective import Objective, Term, Vectors


@dataclass(frozen=True)
class FedProx(Objective):
    """Proximal term: each client minimises its loss plus the distance to the model of the round.

    ``min L(w) + mu/2 |w - w^t|^2``, so that ``g += mu (w - w^t)``; w^t are the weights at the start of the round.

    Args:
        mu: strength of the term; 0: FedAvg.

    Raises:
        LocalError: mu is negative or not finite.

    Example:
        >>> add = FedProx(mu=0.5).term(torch.zeros(2), (), ())
        >>> g = torch.ones(2)
        >>> add(torch.tensor([2.0, 4.0]), g)
        >>> g
        tensor([2., 3.])

    References:
        Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith, Federated Optimization in Heterogeneous Networks, MLSys 2020,
        Algorithm 2. Differences: a client takes the steps of `LocalSGD` instead of a gamma-inexact solution, and the
        server weighs clients by examples, as in FedAvg.
    """

    wire_name: ClassVar[str] = "fed_prox"

    mu: float = 0.1  # larger: clients stay closer to w^t; 0: FedAvg

    def __post_init__(self) -> None:
        check_factor("FedProx: mu", self.mu, "[0, inf)")

    def term(self, start: Tensor, server_vectors: Vectors, client_vectors: Vectors) -> Term | None:
        gap = torch.empty_like(start)

        def add(w: Tensor, g: Tensor) -> None:
            g.add_(torch.sub(w, start, out=gap), alpha=self.mu)

        return add

    def finish(
        self, start: Tensor, end: Tensor, server_vectors: Vectors, client_vectors: Vectors, steps: int, lr: float
    ) -> tuple[Vectors, Vectors]:
        return (), ()
