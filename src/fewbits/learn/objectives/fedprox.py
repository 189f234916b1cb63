"""FedProx (Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020, Algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fewbits.checks import check_number
from fewbits.learn.objective import Objective, Term, Vectors


@dataclass(frozen=True)
class FedProx(Objective):
    """min L(w) + mu/2 |w - w^t|^2, with w^t the weights the round began at: g += mu (w - w^t).

    A client takes as many steps as `LocalSGD` says instead of stopping at the paper's gamma-inexact solution, and the
    server weighs by examples, as in FedAvg.
    """

    wire_name: ClassVar[str] = "fed_prox"

    mu: float = 0.1  # larger: clients stay closer to w^t; 0: FedAvg

    def __post_init__(self) -> None:
        check_number("FedProx: mu", self.mu, "[0, inf)", numpy=True)

    def term(self, start: Tensor, extra: Vectors, kept: Vectors) -> Term | None:
        """g += mu (w - w^t)."""
        gap = torch.empty_like(start)

        def add(w: Tensor, g: Tensor) -> None:
            g.add_(torch.sub(w, start, out=gap), alpha=self.mu)

        return add

    def finish(
        self, start: Tensor, end: Tensor, extra: Vectors, kept: Vectors, steps: int, lr: float
    ) -> tuple[Vectors, Vectors]:
        """Nothing is kept or exchanged."""
        return (), ()
