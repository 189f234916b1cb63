"""Train with all examples in one place, and store the gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fewbits.errors import LocalError
from fewbits.learn.evaluation import evaluate
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.local import Correction, LocalSGD
from fewbits.learn.outputs import described
from fewbits.rng import Key

MOST_BYTES = 4 * 2**30  # of stored gradients
MOST_ROWS = 1000  # of them: a heat map has that many squared

Watch = Callable[[str], None]  # called after every epoch with the name of the training: "all", "d = 64"


@dataclass(frozen=True, eq=False)
class Central:
    """Central training: all examples, one model, and the same batches in every training."""

    train_x: Tensor  # (n, ...), as `fewbits.learn.local.select` takes it
    train_y: Tensor  # (n, ...)
    test_x: Tensor  # (m, ...)
    test_y: Tensor  # (m, ...)
    sgd: LocalSGD  # of one epoch; its momentum starts from zero in every epoch
    epochs: int  # more: a longer look, and better accuracies
    key: Key  # of the batches

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.sgd.epochs != 1 or self.sgd.steps is not None:
            raise LocalError(f"Central: need epochs >= 1 and an sgd of one epoch; got {self.epochs} and {self.sgd}")

    @property
    def steps(self) -> int:
        """Gradient steps of one epoch."""
        return -(-len(self.train_x) // (self.sgd.batch_size or len(self.train_x)))

    def train(
        self, model: FlatModel, correct: Correction | None = None, watch: Watch | None = None, name: str = "all"
    ) -> float:
        """Train the model in place; returns its mean loss over all training examples, nan or inf if it diverged.

        The mean over the last steps would not do: with steps that are too long it is low between bursts.
        """
        rows = np.arange(len(self.train_x))
        for epoch in range(self.epochs):
            self.sgd.train(model, self.train_x, self.train_y, rows, self.key.fold("epoch", epoch), correct=correct)
            if watch is not None:
                watch(name)
        return evaluate(model, self.train_x, self.train_y)[1]

    def accuracy(self, model: FlatModel) -> float:
        """On the test examples, 0..1; LocalError where an accuracy means nothing."""
        accuracy = evaluate(model, self.test_x, self.test_y)[0]
        if accuracy is None:
            raise LocalError(f"diagnose: test targets must be class numbers; got {described(self.test_y)}")
        return accuracy


class Accumulator:
    """Sums the gradients of each block of steps; passed as a correction, it corrects nothing.

    A block is one of `blocks` parts, as equal as can be, of an epoch's steps. Without momentum a row is
    (theta at its start - theta at its end) / lr: the update of a client that trains so long.

    LocalError when an epoch has fewer steps than blocks, or the rows are more than 1,000 or would take more than 4 GiB.
    """

    def __init__(self, numel: int, epochs: int, steps: int, blocks: int) -> None:
        check_rows(numel, epochs, steps, blocks)
        self.rows = torch.zeros(epochs * blocks, numel)
        self._steps, self._blocks, self._taken = steps, blocks, 0

    def __call__(self, model: FlatModel) -> None:
        """Add the gradient of one step."""
        epoch, step = divmod(self._taken, self._steps)
        self.rows[epoch * self._blocks + step * self._blocks // self._steps] += model.grads.cpu()
        self._taken += 1


def check_rows(numel: int, epochs: int, steps: int, blocks: int) -> None:
    """Raise LocalError unless so many gradients can be stored."""
    if not 1 <= blocks <= steps:
        raise LocalError(f"an epoch of {steps} steps has no {blocks} blocks; give 1 to {steps}")
    rows = epochs * blocks
    if rows > MOST_ROWS or 4 * numel * rows > MOST_BYTES:
        raise LocalError(
            f"{rows:,} gradients of {numel:,} numbers are {4 * numel * rows / 2**30:.1f} GiB; at most "
            f"{MOST_ROWS:,} and {MOST_BYTES // 2**30} GiB are stored: give fewer epochs or blocks"
        )
