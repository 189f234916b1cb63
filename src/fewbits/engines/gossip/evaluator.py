"""Evaluator: accuracy, loss and stationarity of the mean of all nodes' models."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fewbits.engines.common.evaluation import score_or_say
from fewbits.engines.common.failed_turn import sentence
from fewbits.engines.common.task import Task, evaluation_noise
from fewbits.factor.derived import duplicate
from fewbits.learn import shared_values
from fewbits.learn.batches import Call, ClientDataError, takes_labels
from fewbits.learn.evaluation import Scores
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.gossip import GossipMethod
from fewbits.learn.local import backward, gradient
from fewbits.learn.local_tensors import LocalTensors
from fewbits.learn.outputs import cross_entropy, default_loss
from fewbits.rng import Key

EXAMPLES = 1000  # training examples for the stationarity, equally many of every node
BATCH = 250


@dataclass(frozen=True)
class ModelMeasures:
    """What a round's report states about the nodes' models."""

    sparsity: float  # share of exact zeros among all parameters
    consensus: float  # |X - mean|_F
    # Of the mean model; {} in rounds without evaluation.
    evaluation: dict[str, float | None] = field(default_factory=dict)
    scores: list[Scores] = field(
        default_factory=list
    )  # by node; [] in rounds without evaluation, and without a test set
    mean: Scores | None = None  # of the mean model; None as above
    metric_name: str | None = None

    def sentences(self, round: int) -> list[str]:
        """Why there is no loss or no metric, for a run's notes."""
        found = [(f"node {node}, its model", note) for node, scores in enumerate(self.scores) for note in scores.notes]
        said = {note for _, note in found}
        found += [("the mean model", note) for note in (self.mean.notes if self.mean else []) if note not in said]
        return [f"round {round}: {whose} on the test set: {note}" for whose, note in found]

    @property
    def accuracies(self) -> list[float | None]:
        """By node."""
        return [scores.accuracy for scores in self.scores]

    @property
    def metrics(self) -> list[float | None]:
        """By node."""
        return [scores.metric for scores in self.scores]


def score_on_test(model: FlatModel, task: Task) -> Scores:
    """The sums of a model over the task's test set, which there must be."""
    assert task.test is not None
    return score_or_say(model, task, task.test, slice(0, len(task.test)))


class Evaluator:
    """Evaluates a vector of all shared numbers, (S,)."""

    def __init__(self, task: Task, method: GossipMethod, key: Key) -> None:
        """`key`: of what model and loss draw in an evaluation."""
        self.task, self.prox, self._key = task, method.prox, key
        self.model = FlatModel(duplicate(task.model))
        self._local_tensors = LocalTensors(self.model)
        self._spec = shared_values.spec(self.model)
        self._count = max(1, EXAMPLES // task.clients)
        parts = [part[: self._count] for part in task.parts] or [np.zeros(0)]  # none: the data have another form
        self._examples = torch.from_numpy(np.concatenate(parts).astype(np.int64))

    def __call__(self, mean: Tensor) -> tuple[dict[str, float | None], Scores | None]:
        """Accuracy, loss and metric on the test set, penalty and stationarity of the mean model (S,); its scores."""
        with evaluation_noise(self.task, self._key, self.model, "mean"):
            return self._measured(mean)

    def _measured(self, mean: Tensor) -> tuple[dict[str, float | None], Scores | None]:
        self._local_tensors.restore_all()
        self.model.shared.copy_(mean)
        self.model.foreign = True
        found: dict[str, float | None] = {"penalty": self.prox.penalty(mean, self._spec)}
        found["stationarity"] = self.stationarity()
        task = self.task
        if task.test is not None:
            scores = score_on_test(self.model, task)
            found |= {"mean_accuracy": scores.accuracy, "loss": scores.loss, "mean_metric": scores.metric}
            return found, scores
        return found, None

    def stationarity(self) -> float | None:
        """|x - prox(x - eta grad F(x))| / eta of the current model, with F's mean over the training examples.

        None: the model or the loss raises on one of the examples.
        """
        model, eta = self.model, getattr(self.task.local, "lr", 1.0)  # without a proximal step eta is of no account
        try:
            gradient = self._gradient() if self.task.shares is None else self._gradient_of_shares()
        except ClientDataError:
            return None
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
            backward(model, *task.pairs, batch, task.loss or cross_entropy)
            total.add_(model.grads, alpha=len(batch) / len(self._examples))
        return total

    def _gradient_of_shares(self) -> Tensor:
        """The same over data in other forms; a fault of one node's data is one of the sum.  # (P,)"""
        model, task = self.model, self.task
        total, seen = torch.zeros_like(model.params), 0
        model.module.eval()
        call = Call(model.module, labels=task.loss is None and takes_labels(model.module))
        for node in (node for node in range(task.clients) if node not in task.unfit):
            for batch in task.examples(node).piece(0, self._count, BATCH):
                gradient(model, batch, task.loss or default_loss, call)
                total.add_(model.grads, alpha=batch.size)
                seen += batch.size
        return total / max(1, seen)
