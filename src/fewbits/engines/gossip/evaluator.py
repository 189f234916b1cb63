"""Evaluator: what the mean of all nodes' models is worth."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fewbits.engines.common.task import Task
from fewbits.learn import shared_values
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.gossip import GossipMethod
from fewbits.learn.local import backward, evaluate

LOOKED_AT = 1000  # training examples for the stationarity, equally many of every node
CHUNK = 250


class Evaluator:
    """Evaluates a vector of all that travels."""

    def __init__(self, task: Task, method: GossipMethod) -> None:
        self.task, self.prox = task, method.prox
        self.model = FlatModel(copy.deepcopy(task.model))
        self._spec = shared_values.spec(self.model)
        count = max(1, LOOKED_AT // len(task.parts))
        self._rows = torch.from_numpy(np.concatenate([part[:count] for part in task.parts]).astype(np.int64))

    def __call__(self, mean: Tensor) -> dict[str, float]:
        """Accuracy and loss on the test set, the regulariser, and how far from stationary it is."""
        self.model.shared.copy_(mean)
        found = {"penalty": self.prox.penalty(mean, self._spec), "stationarity": self.stationarity()}
        task = self.task
        if task.test_x is not None and task.test_y is not None:
            accuracy, loss = evaluate(self.model, task.test_x, task.test_y, loss=task.loss or cross_entropy)
            found |= {"mean_accuracy": accuracy, "loss": loss}
        return found

    def stationarity(self) -> float:
        """|x - prox(x - eta grad F(x))| / eta, with F's mean over up to 1,000 examples, equally many of every node."""
        model, eta = self.model, self.task.local.lr
        total = torch.zeros_like(model.params)
        model.module.eval()
        for rows in torch.split(self._rows, CHUNK):
            backward(model, self.task.x, self.task.y, rows, self.task.loss or cross_entropy)
            total.add_(model.grads, alpha=len(rows) / len(self._rows))
        first = len(model.params) - len(model.shared_params)
        x = model.shared.clone()
        moved = x.clone()
        moved[: len(model.shared_params)] -= eta * total[first:]
        return float(torch.linalg.vector_norm((x - self.prox(moved, eta, self._spec)).double())) / eta
