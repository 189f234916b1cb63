"""Objective: the local problem of a client, where it differs from the plain loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from fewbits.errors import LocalError
from fewbits.learn.optimizers.base import ServerOptimizer

Vectors = tuple[Tensor, ...]  # each (numel,) float32
Term = Callable[[Tensor, Tensor], None]  # (w, g), both (numel,): adds the gradient of the term at w to g, in place


class Objective(ABC):
    """Base of local objectives: a frozen value with pure methods.

    Every vector has the layout of `FlatModel.shared_params`: the trainable parameters that travel, `numel` of them.
    Client vectors stay with the client between its rounds. Server vectors travel with the model: clients receive their
    values and send their changes. All are zero before the first round.
    """

    client_vectors: ClassVar[int] = 0  # how many stay with the client
    server_vectors: ClassVar[int] = 0  # how many travel both ways

    @abstractmethod
    def term(self, start: Tensor, server_vectors: Vectors, client_vectors: Vectors) -> Term | None:
        """Return the term that a round from `start`, a copy, adds to every gradient; None: no term."""

    @abstractmethod
    def finish(
        self, start: Tensor, end: Tensor, server_vectors: Vectors, client_vectors: Vectors, steps: int, lr: float
    ) -> tuple[Vectors, Vectors]:
        """Return (new client vectors, update of the server vectors) after training.

        The update of a server vector is old - new, like the model's.

        Args:
            start: (numel,) the weights before training.
            end: (numel,) the weights after it.
            server_vectors: as received with the model, each (numel,).
            client_vectors: this client's, each (numel,).
            steps: local steps from `start` to `end`.
            lr: size of a step.
        """

    def absorb(self, server_vectors: Vectors, update: Vectors, share: float) -> Vectors:
        """Return the server vectors after a round.

        Clients that were not sampled changed nothing, so the mean over all clients is ``share * update``.

        Args:
            server_vectors: before the round.
            update: weighted mean of the updates of the sampled clients.
            share: weight of the sampled clients over that of all clients, in (0, 1].
        """
        return tuple(x - u * share for x, u in zip(server_vectors, update, strict=True))

    def check(self, local: object) -> None:  # noqa: B027
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
