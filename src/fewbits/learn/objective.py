"""Objective: the local problem of a client, where it differs from the plain loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from fewbits.errors import LocalError
from fewbits.learn.local import LocalSGD
from fewbits.learn.optimizers.base import ServerOptimizer

Vectors = tuple[Tensor, ...]  # each (numel,) float32
Term = Callable[[Tensor, Tensor], None]  # (w, g), both (numel,): adds the gradient of the extra terms to g, in place


class Objective(ABC):
    """Base of local objectives: a frozen value with pure methods.

    Every vector has the layout of `FlatModel.shared_params`: the trainable parameters that travel, `numel` of them.
    `kept` vectors stay with the client between its rounds. `extra` vectors travel with the model: values from the
    server, changes to the server. All are zero before the first round.
    """

    kept: ClassVar[int] = 0  # number of vectors that stay with the client
    extra: ClassVar[int] = 0  # number of vectors that travel both ways

    @abstractmethod
    def term(self, start: Tensor, extra: Vectors, kept: Vectors) -> Term | None:
        """Return the term that a round from `start`, a copy, adds to every gradient; None: no term."""

    @abstractmethod
    def finish(
        self, start: Tensor, end: Tensor, extra: Vectors, kept: Vectors, steps: int, lr: float
    ) -> tuple[Vectors, Vectors]:
        """Return (new kept, update of extra) after `steps` steps of size `lr` from `start` to `end`.

        The update of `extra` is old - new, like the model's.
        """

    def absorb(self, extra: Vectors, update: Vectors, share: float) -> Vectors:
        """Return the server's `extra` after a round.

        Clients that were not sampled changed nothing, so the mean over all clients is ``share * update``.

        Args:
            extra: the vectors before the round.
            update: weighted mean of the updates of the sampled clients.
            share: weight of the sampled clients over that of all clients, in (0, 1].
        """
        return tuple(x - u * share for x, u in zip(extra, update, strict=True))

    def check(self, local: LocalSGD) -> None:  # noqa: B027
        """Raise LocalError unless the algorithm is valid for this local training; by default every one is."""

    def server(self) -> ServerOptimizer | None:
        """Return the server's half of the algorithm; None: any independent optimiser."""
        return None

    def check_server(self, optimizer: ServerOptimizer) -> None:
        """Raise LocalError unless `optimizer` fits this objective."""
        half = self.server()
        if half is not None and optimizer != half:
            raise LocalError(f"{self!r} needs {half!r} at the server; got {optimizer!r}")
        if half is None and optimizer.needs_objective:
            raise LocalError(f"{optimizer!r} is half of an algorithm and needs the clients' half; got {self!r}")
