"""Evaluator: accuracy, loss and stationarity of the mean of all nodes' models."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fewbits.engines.common.failed_turn import sentence
from fewbits.engines.common.task import Task, evaluation_noise
from fewbits.learn import shared_values
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.gossip import GossipMethod
from fewbits.learn.local import backward, evaluate
from fewbits.rng import Key

EXAMPLES = 1000  # training examples for the stationarity, equally many of every node
BATCH = 250


@dataclass(frozen=True)
class ModelMeasures:
    """What a round's report states about the nodes' models."""

    sparsity: float  # share of exact zeros among all parameters
    consensus: float  # |X - mean|_F
    evaluation: dict[str, float] = field(default_factory=dict)  # of the mean model; {} in rounds without evaluation
    accuracies: list[float] | None = None  # by node


class Evaluator:
    """Evaluates a vector of all shared numbers, (S,)."""

    def __init__(self, task: Task, method: GossipMethod, key: Key) -> None:
        """`key`: of what model and loss draw in an evaluation."""
        self.task, self.prox, self._key = task, method.prox, key
        self.model = FlatModel(copy.deepcopy(task.model))
        self._spec = shared_values.spec(self.model)
        count = max(1, EXAMPLES // len(task.parts))
        self._examples = torch.from_numpy(np.concatenate([part[:count] for part in task.parts]).astype(np.int64))

    def __call__(self, mean: Tensor) -> dict[str, float]:
        """Accuracy and loss on the test set, penalty and stationarity of the mean model (S,)."""
        with evaluation_noise(self.task, self._key, self.model, "mean"):
            return self._measured(mean)

    def _measured(self, mean: Tensor) -> dict[str, float]:
        self.model.shared.copy_(mean)
        found = {"penalty": self.prox.penalty(mean, self._spec)}
        if (stationarity := self.stationarity()) is not None:
            found["stationarity"] = stationarity
        task = self.task
        if task.test_x is not None and task.test_y is not None:
            accuracy, loss = evaluate(self.model, task.test_x, task.test_y, loss=task.loss or cross_entropy)
            found |= {"mean_accuracy": accuracy, "loss": loss}
        return found

    def stationarity(self) -> float | None:
        """|x - prox(x - eta grad F(x))| / eta of the current model, with F's mean over the training examples.

        None: the model or the loss raises on one of the examples.
        """
        model, eta = self.model, self.task.local.lr
        try:
            gradient = self._gradient()
        except Exception as error:  # noqa: BLE001 - the user's model, loss and data may raise anything
            sentence(error)  # raises what is ours
            return None
        first = len(model.params) - len(model.shared_params)
        x = model.shared.clone()
        moved = x.clone()
        moved[: len(model.shared_params)] -= eta * gradient[first:]
        return float(torch.linalg.vector_norm((x - self.prox(moved, eta, self._spec)).double())) / eta

    def _gradient(self) -> Tensor:
        """The mean gradient over the training examples.  # (P,)"""
        model, task = self.model, self.task
        total = torch.zeros_like(model.params)
        model.module.eval()
        for batch in torch.split(self._examples, BATCH):
            backward(model, task.x, task.y, batch, task.loss or cross_entropy)
            total.add_(model.grads, alpha=len(batch) / len(self._examples))
        return total
