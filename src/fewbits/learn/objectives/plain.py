"""Plain: the objective of FedAvg's clients (McMahan et al., AISTATS 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fewbits.learn.objective import Objective, Term, Vectors


@dataclass(frozen=True)
class Plain(Objective):
    """The plain loss: ``min L(w)``, without extra vectors.

    Example:
        >>> import fewbits as fb
        >>> fb.methods.dense().objective
        Plain()

    Source: McMahan et al., AISTATS 2017.
    """

    wire_name: ClassVar[str] = "plain"

    def term(self, start: Tensor, server_vectors: Vectors, client_vectors: Vectors) -> Term | None:
        return None

    def finish(
        self, start: Tensor, end: Tensor, server_vectors: Vectors, client_vectors: Vectors, steps: int, lr: float
    ) -> tuple[Vectors, Vectors]:
        return (), ()
