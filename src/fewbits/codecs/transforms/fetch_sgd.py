"""FetchSGD: momentum and error feedback at the server, in the space of sketches.

Rothchild, Panda, Ullah, Ivkin, Stoica, Braverman, Gonzalez, Arora, ICML 2020, Algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from fewbits import kernels
from fewbits.checks import check_factor, check_number, check_one_of, check_whole
from fewbits.codecs.transforms.sketch import Sketch
from fewbits.codecs.transforms.sparse import magnitudes
from fewbits.errors import LocalError

FEEDBACK = ("subtract", "zero")


class FetchStep(NamedTuple):
    """What one round gives: the model's step w[support] -= values, and the new tables.

    Args:
        support: (k',) int64, ascending positions in the model; k' <= k.
        values: (k',) what is taken off there.
        momentum: (numbers,) the new u.
        error: (numbers,) the new e.
    """

    support: Tensor  # (k',) int64, ascending; k' <= k
    values: Tensor  # (k',)
    momentum: Tensor  # (numbers,) u
    error: Tensor  # (numbers,) e


@dataclass(frozen=True)
class FetchSGD:
    """u <- rho u + S(g); e <- eta u + e; Delta <- top-k(unsketch(e)); e <- e - S(Delta); w <- w - Delta.

    S(g) is the mean of the clients' tables, by one Sketch in all rounds; clients keep nothing. Estimates are medians,
    ties go to the lower index and zeros are never chosen. Where vectors are their own tables, `subtract` is exactly
    top-k with momentum and error feedback.

    Estimates err by what shares their columns, and an error put into the model comes back to be fed back. With
    `subtract`, the line above, k must stay below about a tenth of the columns, or e grows without bound. `zero`
    empties instead all places of u and e that S(Delta) touches: e cannot grow so, and some of it is lost.

    Args:
        k: entries of the model that a round changes; more: faster, until estimates are noise.
        momentum: rho, in [0, 1).
        lr: eta, the server's rate.
        feedback: "zero" or "subtract", as above.

    Raises:
        LocalError: an option is out of range.

    Example:
        >>> from fewbits import Key
        >>> sketch, optimizer = Sketch(numel=100, rows=5, columns=40, key=Key(7)), FetchSGD(k=1, momentum=0.0)
        >>> x = torch.zeros(100).index_fill(0, torch.tensor([42]), 3.0)
        >>> step = optimizer.step(sketch, sketch.of(x), *optimizer.init(sketch))
        >>> step.support.tolist(), step.values.tolist()
        ([42], [3.0])

    Source: Rothchild et al., FetchSGD: Communication-Efficient Federated Learning with Sketching, ICML 2020,
    Algorithm 1, whose error feedback is `subtract`.
    """

    wire_name: ClassVar[str] = "fetch_sgd"

    k: int  # entries of the model that a round changes; more: faster, until estimates are noise
    momentum: float = 0.9  # rho, in [0, 1)
    lr: float = 1.0  # eta
    feedback: str = "zero"  # or "subtract"

    def __post_init__(self) -> None:
        check_whole("FetchSGD: k", self.k, 1)
        check_one_of("FetchSGD: feedback", self.feedback, FEEDBACK)
        check_number("FetchSGD: momentum", self.momentum, "[0, 1)", numpy=True)
        check_factor("FetchSGD: lr", self.lr)

    def init(self, sketch: Sketch) -> tuple[Tensor, Tensor]:
        """u = e = 0.  # (numbers,) each"""
        return torch.zeros(sketch.numbers), torch.zeros(sketch.numbers)

    def step(self, sketch: Sketch, table: Tensor, momentum: Tensor, error: Tensor) -> FetchStep:
        """One round from the mean table S(g), u and e; pure.

        Raises LocalError when table, u or e has another length than the sketch's tables.
        """
        for name, x in (("table", table), ("momentum", momentum), ("error", error)):
            if x.shape != (sketch.numbers,):
                raise LocalError(f"FetchSGD.step: expected {name} of {sketch.numbers} entries; got {tuple(x.shape)}")
        u = momentum * self.momentum + table
        e = u * self.lr + error
        estimates = sketch.median(e)
        if not bool(torch.isfinite(estimates).all()):
            raise LocalError("FetchSGD.step: the error leaves the range of its type; the rate may be too high")
        support = torch.from_numpy(kernels.select.largest(magnitudes(estimates), self.k))
        values = estimates[support]
        taken = sketch.of_sparse(support, values)
        if self.feedback == "zero":
            return FetchStep(support, values, u.masked_fill(taken != 0, 0), e.masked_fill(taken != 0, 0))
        return FetchStep(support, values, u, e - taken)
