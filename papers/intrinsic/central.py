"""What a run does to the model, without its frames: the gradients of a round's clients in one place.

A client's turn is one gradient. All methods here but top-k add what clients send, linearly, so that a round takes one
gradient of all its images; the server's half is the library's. No byte is counted here: learning rates are found so,
and what could be done with the momentum when the matrix changes. `run.py` has the frames; its accuracies are these but
for rounding and, for top-k, the 8 bits of its downlink.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from cases import Case
from torch import Tensor

import fewbits as fb
from fewbits.codecs.base import Keys
from fewbits.federated.server import sampled
from fewbits.learn import FlatModel
from fewbits.learn.intrinsic_space import IntrinsicSpace
from fewbits.learn.local import backward, evaluate
from fewbits.spec import Spec

EXTENSION = 0.5  # "extend": by how much of itself an epoch's way is made longer

Gradient = Callable[[list[int]], Tensor]  # lr times the sum over these clients of their gradients


def curve(
    case: Case, task: fb.simulation.Task, method: fb.Method, key: fb.Key, every: int, carried: str = "restart"
) -> dict:
    """Rounds that were evaluated, and the accuracy after each."""
    model = FlatModel(task.model)
    rounds, accuracy = [], []

    def gradient(clients: list[int]) -> Tensor:
        rows = np.concatenate([task.parts[c] for c in clients])
        backward(model, task.x, task.y, torch.from_numpy(rows))
        return model.grads * (task.local.lr * len(clients))

    alone = fb.TopK(float(case.settings["fraction"])) if case.stateless else None
    mover = Whole(method, alone, len(model.params)) if method.space is None else Inside(method, model, carried)
    for number in range(1, case.rounds + 1):
        clients = sampled(key.fold("server"), number - 1, len(task.parts), case.per_round)
        model.params.copy_(mover.step(model.params, number, clients, gradient))
        if number % every == 0 or number == case.rounds:
            assert task.test_x is not None and task.test_y is not None
            rounds.append(number)
            accuracy.append(evaluate(model, task.test_x, task.test_y)[0])
    return {"rounds": rounds, "accuracy": accuracy}


class Whole:
    """FedAvg, FetchSGD and local top-k."""

    def __init__(self, method: fb.Method, alone: fb.TopK | None, numel: int) -> None:
        """`alone`: what compresses each client's update."""
        self.optimizer, self.alone, self.spec = method.server_optimizer, alone, Spec((numel,))
        self.moments = self.optimizer.init(numel)
        self.keys = Keys(fb.Key(0), fb.Key(0))  # nothing here draws from them

    def step(self, theta: Tensor, number: int, clients: list[int], gradient: Gradient) -> Tensor:
        """The next theta.  # (D,)"""
        if self.alone is not None:
            update = torch.stack([self._sparse(self.alone, gradient([client])) for client in clients]).sum(0)
        else:
            update, linear_prefix = gradient(clients), self.optimizer.carrier
            update = update if linear_prefix is None else linear_prefix.split(update, self.spec, self.keys)[1]
        theta, self.moments = self.optimizer.step(theta, update / len(clients), self.moments)
        return theta

    def _sparse(self, codec: fb.TopK, x: Tensor) -> Tensor:
        side, kept = codec.split(x, self.spec, self.keys)
        return codec.join(side, kept, self.spec)


class Inside:
    """The three modes, with momentum beta: m = beta m + A^T g, s -= m; theta = theta_e + A s.

    What of m when A changes: "restart" forgets it. "project": A_new^T A_old m. "spend": s first goes as far as it still
    would without any gradient, beta / (1 - beta) m. "extend": s becomes 1.5 s, for a velocity that is the epoch's mean.
    "keep": the server's momentum is of the whole model's size, and theta leaves the subspaces.
    """

    def __init__(self, method: fb.Method, model: FlatModel, carried: str) -> None:
        """Begins at the model as it is."""
        assert method.space is not None
        self.space: IntrinsicSpace = method.space
        self.beta: float = method.server_optimizer.momentum  # pyright: ignore[reportAttributeAccessIssue]
        self.carried, self.epoch, self.base = carried, 0, model.params.clone()
        self.s = self.m = torch.zeros(self.space.numel)
        self.whole = torch.zeros_like(self.base)  # m in D numbers, for "keep"

    def step(self, theta: Tensor, number: int, clients: list[int], gradient: Gradient) -> Tensor:
        """The next theta.  # (D,)"""
        space, size = self.space, len(theta)
        chosen = np.array([space.which(number, client) for client in clients])
        update = torch.zeros(space.subspaces, space.dim)
        for which in sorted(set(chosen.tolist())):
            own = [client for client, found in zip(clients, chosen, strict=True) if found == which]
            update[which] = space.matrix(size, self.epoch, which).project(gradient(own))
        update = update.reshape(-1) / len(clients)
        self.m = self.beta * self.m + update
        if self.carried == "keep":
            self.whole = self.beta * self.whole + space.expand(size, self.epoch, update)
            self.base = self.base - self.whole
        else:
            self.s = self.s - self.m
        if space.epoch_of(number + 1) != self.epoch:
            self._fold(size, space.epoch_of(number + 1))
        return self.base + space.expand(size, self.epoch, self.s)

    def _fold(self, size: int, epoch: int) -> None:
        space, before = self.space, self.epoch
        if self.carried == "spend":
            self.s = self.s - self.m * (self.beta / (1 - self.beta))
        if self.carried == "extend":
            self.s = self.s * (1 + EXTENSION)
        self.base = self.base + space.expand(size, before, self.s)
        moving = space.expand(size, before, self.m)
        self.epoch, self.s, self.m = epoch, torch.zeros_like(self.s), torch.zeros_like(self.m)
        if self.carried == "project":
            self.m = torch.cat([space.matrix(size, epoch, k).project(moving) for k in range(space.subspaces)])
