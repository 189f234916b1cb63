"""Evaluator: accuracy, loss and stationarity of the mean of all nodes' models."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fewbits.engines.common.task import Task
from fewbits.factor.derived import duplicate
from fewbits.learn import shared_values
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.gossip import GossipMethod
from fewbits.learn.local import backward, evaluate

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

    def __init__(self, task: Task, method: GossipMethod) -> None:
        self.task, self.prox = task, method.prox
        self.model = FlatModel(duplicate(task.model))
        self._spec = shared_values.spec(self.model)
        count = max(1, EXAMPLES // len(task.parts))
        self._examples = torch.from_numpy(np.concatenate([part[:count] for part in task.parts]).astype(np.int64))

    def __call__(self, mean: Tensor) -> dict[str, float]:
        """Accuracy and loss on the test set, penalty and stationarity of the mean model (S,)."""
        self.model.shared.copy_(mean)
        self.model.refresh()
        found = {"penalty": self.prox.penalty(mean, self._spec), "stationarity": self.stationarity()}
        task = self.task
        if task.test_x is not None and task.test_y is not None:
            accuracy, loss = evaluate(self.model, task.test_x, task.test_y, loss=task.loss or cross_entropy)
            found |= {"mean_accuracy": accuracy, "loss": loss}
        return found

    def stationarity(self) -> float:
        """|x - prox(x - eta grad F(x))| / eta of the current model, with F's mean over the training examples."""
        model, eta = self.model, self.task.local.lr
        gradient = self._gradient()
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
