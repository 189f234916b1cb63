"""SCAFFOLD: control variates that correct the drift of clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fewbits.errors import LocalError
from fewbits.learn.local import LocalSGD
from fewbits.learn.objective import Objective, Term, Vectors


@dataclass(frozen=True)
class Scaffold(Objective):
    """Control variates: each step is corrected by the difference of the mean and the client's gradient estimate.

    ``g += c - c_i`` in each step. After K steps from x to y_i:
    ``c_i+ = c_i - c + (x - y_i) / (K lr)``, ``x <- x + lr_g mean(y_i - x)``, ``c <- c + |S|/N mean(c_i+ - c_i)``.
    The client keeps c_i; c travels both ways, which doubles the traffic and is counted. lr_g is `ServerSGD.lr`.
    Send the control variate losslessly: an error of a codec in it stays in c.

    Raises:
        LocalError: from `check`, when local training uses momentum or clipping.

    Example:
        >>> from fewbits import LocalSGD
        >>> Scaffold().check(LocalSGD(lr=0.1))
        >>> Scaffold.client_vectors, Scaffold.server_vectors
        (1, 1)

    References:
        Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, ICML 2020, Algorithm 1
        with option II. Difference: the paper weighs clients alike; here both means and |S|/N weigh a client by its
        number of examples n_i. Then c = sum_i n_i c_i / sum_i n_i at all times, and x tends to the minimiser of the
        weighted loss. With clients of one size this is the paper's rule.
    """

    wire_name: ClassVar[str] = "scaffold"

    client_vectors: ClassVar[int] = 1
    server_vectors: ClassVar[int] = 1

    def check(self, local: object) -> None:
        if not isinstance(local, LocalSGD):
            raise LocalError(
                "scaffold computes its control variates from the learning rate of SGD; give local=fb.LocalSGD(...), "
                f"not a {type(local).__name__}"
            )
        """Refuse momentum and clipping: (x - y_i) / (K lr) is the mean gradient of plain SGD only."""
        if local.momentum != 0 or local.clip is not None:
            raise LocalError(
                "Scaffold: option II reads the mean gradient off plain SGD's steps, without momentum and clip; "
                f"got momentum {local.momentum} and clip {local.clip}"
            )

    def term(self, start: Tensor, server_vectors: Vectors, client_vectors: Vectors) -> Term | None:
        (c,), (c_i,) = server_vectors, client_vectors
        shift = c - c_i

        def add(w: Tensor, g: Tensor) -> None:
            g.add_(shift)

        return add

    def finish(
        self, start: Tensor, end: Tensor, server_vectors: Vectors, client_vectors: Vectors, steps: int, lr: float
    ) -> tuple[Vectors, Vectors]:
        (c,), (c_i,) = server_vectors, client_vectors
        update = c - (start - end) / (steps * lr)  # c_i - c_i+
        return (c_i - update,), (update,)
