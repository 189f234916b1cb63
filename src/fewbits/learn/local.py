"""Local training: steps of stochastic gradient descent on the examples of one client."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from fewbits.checks import check_factor, check_number, check_whole
from fewbits.errors import LocalError
from fewbits.learn.batches import Batch, Call, takes_labels
from fewbits.learn.evaluation import evaluate as evaluate
from fewbits.learn.examples import Examples, TensorExamples
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.local_report import LocalReport as LocalReport
from fewbits.learn.local_report import Loss, LossMean
from fewbits.learn.outputs import cross_entropy, default_loss
from fewbits.learn.seeding import draws, hooks_registered, loss_draws, seeded
from fewbits.learn.select import select
from fewbits.rng import Key

END = 0.1  # the part of a falling learning rate that is left, unless another is given
IGNORED = -100  # a target that losses leave out, by torch's convention
Correction = Callable[[FlatModel], None]  # changes model.grads in place before a step (FedProx, SCAFFOLD, ...)


@dataclass(frozen=True)
class LocalSGD:
    """Train a client's model by SGD with the update rule of torch.optim.SGD, in place on the flat model.

    With the batch's mean gradient g, after clipping: ``g += weight_decay * w``, ``m = momentum * m + g``,
    ``w -= lr * m``. m starts at zero in every call, because a client keeps no optimiser state between rounds.

    Args:
        lr: step size.
        momentum: in [0, 1).
        weight_decay: factor of w in the gradient.
        batch_size: examples per step; 0: all examples of the client.
        epochs: passes over the client's examples.
        steps: number of steps, in place of `epochs`; None: use `epochs`.
        clip: largest 2-norm of the batch gradient; None: no limit.
        falling: rounds over which lr falls in a straight line, ``lr (1 - (1 - end_factor) min(1, (round - 1) /
            falling))``; None: it is constant.
        end_factor: the part of lr that is left after them, in (0, 1], as of torch's LinearLR. It goes with `falling`.

    Raises:
        LocalError: an argument is out of range.

    Example:
        >>> from torch import nn
        >>> model = FlatModel(nn.Linear(3, 2))
        >>> x, y = torch.ones(20, 3), torch.zeros(20, dtype=torch.int64)
        >>> report = LocalSGD(lr=0.1, batch_size=5).train(model, x, y, np.arange(20), Key(0))
        >>> report.steps, report.examples
        (4, 20)

    References:
        McMahan, Moore, Ramage, Hampson and Aguera y Arcas, AISTATS 2017, Algorithm 1 (ClientUpdate).
    """

    wire_name: ClassVar[str] = "local_sgd"

    lr: float  # step size; larger: faster, then unstable
    momentum: float = 0.0  # in [0, 1); larger: longer memory of past gradients within one call
    weight_decay: float = 0.0  # larger: weights are pulled harder to zero
    batch_size: int = 10  # examples per step; 0: all of the client's examples
    epochs: int = 1  # passes over the examples; larger: fewer rounds, more drift from the other clients
    steps: int | None = None  # larger: more drift; None: `epochs` passes
    clip: float | None = None  # largest 2-norm of a batch gradient; smaller: shorter steps; None: no limit
    falling: int | None = None  # rounds until lr is at its end; as long as the run: less noise then; None: constant
    end_factor: float = END  # smaller: less noise at the end; near 0 the last rounds train little

    def __post_init__(self) -> None:
        check_factor("LocalSGD: lr", self.lr)
        check_number("LocalSGD: momentum", self.momentum, "[0, 1)", numpy=True)
        check_factor("LocalSGD: weight_decay", self.weight_decay, "[0, inf)")
        check_whole("LocalSGD: batch_size", self.batch_size, 0, numpy=True)
        check_whole("LocalSGD: epochs", self.epochs, 1, numpy=True)
        if self.steps is not None:
            check_whole("LocalSGD: steps", self.steps, 1, numpy=True)
        if self.clip is not None:
            check_number("LocalSGD: clip", self.clip, "(0, inf)", numpy=True)
        if self.falling is not None:
            check_whole("LocalSGD: falling", self.falling, 1, numpy=True)
        check_number("LocalSGD: end_factor", self.end_factor, "(0, 1]", numpy=True)
        if self.falling is None and self.end_factor != END:
            raise LocalError(
                f"LocalSGD: end_factor={self.end_factor:g} is what is left of a falling rate, but falling=None; give "
                "the rounds, such as falling=50"
            )

    def at(self, round: int) -> Self:
        """The same with the step size of a round, counted from 1: every client knows it, so it never travels.

        >>> [round(LocalSGD(lr=0.5, falling=2).at(number).lr, 3) for number in (1, 2, 3, 9)]
        [0.5, 0.275, 0.05, 0.05]
        """
        if self.falling is None:
            return self
        part = 1 - (1 - self.end_factor) * min(1.0, max(0, round - 1) / self.falling)
        return replace(self, lr=self.lr * part, falling=None, end_factor=END)

    def train(
        self,
        model: FlatModel,
        x: Tensor,
        y: Tensor,
        indices: np.ndarray,
        key: Key,
        *,
        loss: Loss = cross_entropy,
        correct: Correction | None = None,
    ) -> LocalReport:
        """Train the model in place on the client's examples.

        Outputs of the model may be (batch, classes) or, for sequences, (batch, classes, time). With one torch thread
        equal arguments give equal bits: where the model, the loss or a hook may draw random numbers, the key seeds the
        global generators of torch, NumPy and Python. They are restored afterwards. A batch without any target (all are
        -100) has a gradient of zero, and the mean loss leaves out steps without a finite loss.

        Args:
            model: the client's model.
            x: (n, ...) inputs of all clients.
            y: (n, ...) targets of all clients.
            indices: (examples,) integers, the rows of this client.
            key: the key of the order of examples, of dropout and of other noise.
            loss: (outputs, targets) -> mean loss, a scalar tensor.
            correct: changes `model.grads` in place before each step, as FedProx and SCAFFOLD do.

        Raises:
            LocalError: there is no example, or x, y and indices do not fit together.
        """
        rows = _rows(x, y, indices)
        steps = (_batch(x, y, found) for found in self.batches(rows, key))
        noisy = not model.undisturbed and self.draws(model, loss)  # where it is, somebody has asked already
        return self._descend(model, steps, model.module, loss, correct, key, noisy, rows.size)

    def fit(
        self,
        model: FlatModel,
        examples: Examples,
        key: Key,
        *,
        round: int = 1,
        loss: Loss | None = None,
        correct: Correction | None = None,
        state: bytes = b"",
    ) -> LocalReport:
        """Train the model in place on examples of any kind; for those of two tensors it is `train`.

        Args:
            model: the client's.
            examples: the client's.
            key: as for `train`.
            round: from 1; `at` has seen it.
            loss: as for `train`; None: the model's own, or else cross-entropy.
            correct: as for `train`.
            state: nothing stays with the client.

        Raises:
            LocalError: there is no example, or the model takes nothing of the client's batches.
        """
        if isinstance(examples, TensorExamples):
            return self.train(
                model, examples.x, examples.y, examples.numbers, key, loss=loss or cross_entropy, correct=correct
            )
        module, device, counted = model.module, model.params.device, loss or default_loss
        call = Call(module, labels=loss is None and takes_labels(module))
        steps = (batch.to(device) for batch in examples.passes(self.batch_size, self.epochs, self.steps, key))
        noisy = examples.noisy or self.draws(model, counted)
        found = self._descend(model, steps, call, counted, correct, key, noisy, 0)
        return replace(found, examples=len(examples), remarks=call.remarks)

    def _descend(
        self,
        model: FlatModel,
        steps: Iterator[Batch],
        call: Callable[[Any], Any],
        loss: Loss,
        correct: Correction | None,
        key: Key,
        noisy: bool,
        examples: int,
    ) -> LocalReport:
        """A step on every batch."""
        model.attach()
        if not model.module.training:
            model.module.train()
        momentum = torch.zeros_like(model.params) if self.momentum else None
        taken, mean = 0, LossMean(loss)
        # only where needed: seeding costs 0.1 ms with cold caches, 3% of a client with one small step
        with seeded(key.fold("noise"), model.params.device) if noisy else nullcontext():
            for batch in steps:
                value = gradient(model, batch, loss, call)
                if correct is not None:
                    correct(model)
                self._step(model, momentum)
                taken += 1
                mean.add(value, batch.targets, batch.size)
        return mean.report(taken, examples)

    def draws(self, model: FlatModel, loss: Loss) -> bool:
        """Whether random functions may be called in a step: by the model, its hooks, the loss or a subclass of this.

        Where not, a step runs the code of torch and of this package alone.
        """
        if model.hooks != (hooks := hooks_registered()):
            model.draws, model.hooks = draws(model.module), hooks
        return model.draws or loss_draws(loss) or type(self) is not LocalSGD

    def steps_for(self, examples: int) -> int:
        """Steps of a client with so many examples in one round."""
        return self.steps or self.epochs * -(-examples // (self.batch_size or examples))

    def batches(self, rows: np.ndarray, key: Key) -> Iterator[Tensor]:
        """Yield the batches as row numbers: a new permutation each epoch; the last batch may be smaller."""
        size = self.batch_size or len(rows)
        per_epoch = -(-len(rows) // size)
        steps = self.steps_for(len(rows))
        order = torch.from_numpy(rows)
        for step in range(steps):
            epoch, batch = divmod(step, per_epoch)
            if batch == 0 and per_epoch > 1:  # a single batch needs no order
                order = torch.from_numpy(rows[key.fold("epoch", epoch).permutation(len(rows))])
            yield order[batch * size : (batch + 1) * size] if per_epoch > 1 else order

    def _step(self, model: FlatModel, momentum: Tensor | None) -> None:
        update = model.grads
        if self.clip is not None:
            clip(update, self.clip)
        if self.weight_decay:
            update.add_(model.params, alpha=self.weight_decay)
        if momentum is not None:
            update = momentum.mul_(self.momentum).add_(update)
        model.params.add_(update, alpha=-self.lr)


def clip(gradient: Tensor, most: float) -> None:
    """Shorten a gradient in place to a 2-norm of at most `most`: torch.nn.utils.clip_grad_norm_, with its 1e-6."""
    gradient.mul_(torch.clamp(most / (torch.linalg.vector_norm(gradient) + 1e-6), max=1.0))


def backward(model: FlatModel, x: Tensor, y: Tensor, rows: Tensor, loss: Loss = cross_entropy) -> float:
    """Compute the mean loss of the given rows; `model.grads` then holds its gradient."""
    return gradient(model, _batch(x, y, rows), loss, model.module)


def gradient(model: FlatModel, batch: Batch, loss: Loss, call: Callable[[Any], Any]) -> float:
    """Compute the mean loss of a batch; `model.grads` then holds its gradient.

    `call` gets a tensor of inputs by itself, and any other batch whole.
    """
    model.grads.zero_()
    value = loss(call(batch.inputs if isinstance(batch.inputs, Tensor) else batch), batch.targets)
    value.backward()
    mean = value.item()
    if not math.isfinite(mean) and isinstance(batch.targets, Tensor) and bool((batch.targets == IGNORED).all()):
        model.grads.zero_()  # a mean over no target is 0/0; torch's cross-entropy has this gradient, others have NaN
    return mean


def _batch(x: Tensor, y: Tensor, rows: Tensor) -> Batch:
    rows = rows.to(x.device)
    return Batch(select(x, rows), y.index_select(0, rows), rows.shape[0])


def _rows(x: Tensor, y: Tensor, indices: np.ndarray) -> np.ndarray:
    indices = np.asarray(indices)
    if indices.ndim != 1 or not len(indices) or indices.dtype.kind not in "iu":
        raise LocalError(f"train: expected a client's row numbers, one or more; got {indices.dtype} {indices.shape}")
    count = x.shape[0]  # `len` of a tensor calls ten functions
    if count != y.shape[0]:
        raise LocalError(f"train: expected as many targets as inputs; got {len(y)} and {count}")
    indices = indices.astype(np.int64, copy=False)
    if np.maximum.reduce(indices.view(np.uint64)) >= count:  # one pass: as unsigned, a negative number is very large
        raise LocalError(f"train: row numbers must be in 0..{count - 1}; got {indices.min()}..{indices.max()}")
    return indices
