"""SCAFFOLD (Karimireddy et al., Stochastic Controlled Averaging for Federated Learning, ICML 2020, Algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fewbits.errors import LocalError
from fewbits.learn.local import LocalSGD
from fewbits.learn.objective import Objective, Term, Vectors


@dataclass(frozen=True)
class Scaffold(Objective):
    """Algorithm 1 with option II: g += c - c_i, with the client's control variate c_i and their mean c.

        c_i+ = c_i - c + (x - y_i) / (K lr)          after K steps from x to y_i
        x <- x + lr_g mean(y_i - x),  c <- c + |S|/N mean(c_i+ - c_i)

    `kept` is (c_i,), `extra` is (c,): it doubles what travels both ways, and is counted. lr_g is `ServerSGD.lr`.

    The paper weighs clients alike. Here both means, and |S|/N, weigh a client by its number of examples n_i, so that
    c = sum_i n_i c_i / sum_i n_i at all times and x tends to the minimiser of the weighted loss. With clients of one
    size this is the paper's rule. Send the control variate losslessly: what a codec changes in it stays in c.
    """

    wire_name: ClassVar[str] = "scaffold"

    kept: ClassVar[int] = 1
    extra: ClassVar[int] = 1

    def check(self, local: LocalSGD) -> None:
        """(x - y_i) / (K lr) is the mean gradient of plain SGD only; weight decay is part of the loss."""
        if local.momentum != 0 or local.clip is not None:
            raise LocalError(
                "Scaffold: option II reads the mean gradient off plain SGD's steps, without momentum and clip; "
                f"got momentum {local.momentum} and clip {local.clip}"
            )

    def term(self, start: Tensor, extra: Vectors, kept: Vectors) -> Term | None:
        """g += c - c_i."""
        (c,), (c_i,) = extra, kept
        shift = c - c_i

        def add(w: Tensor, g: Tensor) -> None:
            g.add_(shift)

        return add

    def finish(
        self, start: Tensor, end: Tensor, extra: Vectors, kept: Vectors, steps: int, lr: float
    ) -> tuple[Vectors, Vectors]:
        """c_i+, and c_i - c_i+ = c - (x - y_i) / (K lr)."""
        (c,), (c_i,) = extra, kept
        update = c - (start - end) / (steps * lr)
        return (c_i - update,), (update,)
