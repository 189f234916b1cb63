"""Evaluation of a model: sums of accuracy, loss and a metric, which add up over pieces of a test set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fewbits.errors import FewbitsError, LocalError, words
from fewbits.learn.batches import Batch, Call, takes_labels
from fewbits.learn.examples import Examples, TensorExamples
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.metric_sums import MetricSums
from fewbits.learn.metrics import Metric, count_right, ignored, measure, metric_name
from fewbits.learn.outputs import cross_entropy, default_loss, described

BATCH = 500  # examples; pieces of a test set have so many, too


class Scores(NamedTuple):
    """Sums over examples. Pieces of a set, added in order, give what the whole set gives."""

    right: int = 0
    counted: int | None = 0  # targets that the accuracy counts; None: an accuracy would mean nothing
    loss_sum: float = 0.0
    loss_weight: float = 0.0
    metric_kind: str = ""  # as in MetricSums; "": no metric
    metric_sums: tuple[float, ...] = ()
    trouble: str = ""  # why there is no metric, of the first piece without one
    failure: str = ""  # why nothing could be measured, of the first piece whose model or loss failed

    @staticmethod
    def total(parts: Iterable[Scores]) -> Scores:
        """The sum of all."""
        found = Scores()
        for part in parts:
            found = found._plus(part)
        return found

    def _plus(self, part: Scores) -> Scores:
        kind, sums, trouble = self.metric_kind, self.metric_sums, self.trouble or part.trouble
        if part.metric_kind and not trouble:
            try:
                kind, sums = self._metric().plus(part._metric()) if kind else part._metric()
            except LocalError as error:
                trouble = str(error)
        return Scores(
            self.right + part.right,
            None if self.counted is None or part.counted is None else self.counted + part.counted,
            self.loss_sum + part.loss_sum,
            self.loss_weight + part.loss_weight,
            kind,
            sums,
            trouble,
            self.failure or part.failure,
        )

    @property
    def accuracy(self) -> float | None:
        """In [0, 1]; None: it would mean nothing, or there is no target to count."""
        return self.right / self.counted if self.counted and not self.failure else None

    @property
    def loss(self) -> float | None:
        """The mean loss; None: no target counts."""
        return self.loss_sum / self.loss_weight if self.loss_weight and not self.failure else None

    @property
    def metric(self) -> float | None:
        """The metric; None: there is none, it counted nothing, it failed, or it is not finite."""
        return None if self.trouble or self.failure or not self.metric_kind else self._metric().figure

    def _metric(self) -> MetricSums:
        return MetricSums(self.metric_kind, tuple(self.metric_sums))

    @property
    def notes(self) -> list[str]:
        """Why there is no loss or no metric, as sentences.

        >>> Scores().notes
        ['no target counts, so that there is no loss']
        """
        if self.failure:
            return [self.failure]
        found = [] if self.loss_weight else ["no target counts, so that there is no loss"]
        return [*found, self.trouble] if self.trouble else found


def score(
    model: FlatModel | nn.Module,
    x: Tensor,
    y: Tensor,
    batch: int = BATCH,
    *,
    loss: Callable[[Any, Tensor], Tensor] = cross_entropy,
    metric: Metric | None = None,
) -> Scores:
    """Sum accuracy, loss and metric over all examples, in evaluation mode.

    The mode of every submodule is restored. Tensors that a module caches in its forward can be trained with.

    Args:
        model: the model, or its flat form.
        x: (n, ...) inputs.
        y: (n, ...) targets.
        batch: examples at a time.
        loss: (outputs, targets) -> mean loss, a scalar tensor.
        metric: (outputs, targets) -> the batch's mean, its (sum, count), or its MetricSums.

    Raises:
        LocalError: there is no example, x and y differ in length, batch < 1, or model or loss fails on a batch. A
            metric that fails is `trouble`: it ends no run.
    """
    if batch < 1 or len(x) == 0 or len(x) != len(y):
        raise LocalError(f"evaluate: need batch >= 1 and as many inputs as targets; got {batch}, {len(x)}, {len(y)}")
    return score_examples(model, TensorExamples(x, y), slice(0, len(x)), batch, loss=loss, metric=metric)


def score_examples(
    model: FlatModel | nn.Module,
    examples: Examples,
    rows: slice,
    batch: int = BATCH,
    *,
    loss: Callable[[Any, Tensor], Tensor] | None = None,
    metric: Metric | None = None,
) -> Scores:
    """As `score`, over some rows of examples of any kind; a loader's own batch size goes first.

    loss: None: the model's own, or else cross-entropy.
    """
    module = model.module if isinstance(model, FlatModel) else model
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    call = Call(module, labels=loss is None and takes_labels(module))
    parts: list[Scores] = []
    with evaluating(module), torch.no_grad():  # inference_mode would leave cached tensors that no training can use
        source, start = examples.piece(rows.start, rows.stop, examples.batch_size or batch), rows.start
        while (found := _next(source, start)) is not None:
            inputs, targets, size = found = found.to(device)
            try:
                parts.append(score_batch(call(found), targets, loss or default_loss, metric))
            except FewbitsError:
                raise
            except Exception as error:  # the user's own code may raise anything
                where = f"rows {start}..{start + size - 1}, x {described(inputs)}, y {described(targets)}"
                raise LocalError(f"evaluation fails on {where}: {type(error).__name__}: {words(error)}") from error
            start += size
    return Scores.total(parts)


def _next(source: Iterator[Batch], start: int) -> Batch | None:
    try:
        return next(source, None)
    except FewbitsError:
        raise
    except Exception as error:  # the user's data may raise anything
        raise LocalError(f"the data fail from row {start} on: {type(error).__name__}: {words(error)}") from error


def score_batch(
    outputs: object, targets: Tensor, loss: Callable[[Any, Tensor], Tensor], metric: Metric | None
) -> Scores:
    """The sums of one batch."""
    right, counted = count_right(outputs, targets, loss) or (0, None)
    mean, weight = float(loss(outputs, targets)), _weight(loss, targets)
    if not weight or (not math.isfinite(mean) and all_void(targets)):
        mean, weight = 0.0, 0.0  # the mean of no target
    if metric is None:
        return Scores(right, counted, mean * weight, weight)
    try:
        kind, sums = measure(metric, outputs, targets)
    except LocalError as error:
        return Scores(right, counted, mean * weight, weight, trouble=str(error))
    trouble = "" if all(map(math.isfinite, sums)) else f"metric {metric_name(metric)} is not finite"
    return Scores(right, counted, mean * weight, weight, kind, sums, trouble)


def no_target(targets: Tensor, loss: object) -> bool:
    """Whether the loss leaves all of these targets out.

    >>> no_target(torch.tensor([255, 255]), nn.CrossEntropyLoss(ignore_index=255))
    True
    """
    void = ignored(loss)
    return all_void(targets) or (void is not None and bool((targets == void).all()))


def all_void(targets: object) -> bool:
    """Whether the targets are whole and negative, so that none of them is a class."""
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.is_complex():
        return False
    return bool((targets < 0).all())


def _weight(loss: object, targets: Tensor) -> float:
    """What the batch's mean loss is a mean over: the targets that cross-entropy counts, or else the examples."""
    void = ignored(loss)
    if void is None or targets.is_floating_point():
        return float(len(targets))
    return float((targets != void).sum())


def evaluate(
    model: FlatModel | nn.Module,
    x: Tensor,
    y: Tensor,
    batch: int = BATCH,
    *,
    loss: Callable[[Any, Tensor], Tensor] = cross_entropy,
) -> tuple[float | None, float]:
    """Compute the accuracy in [0, 1], None where it means nothing, and the mean loss over all examples.

    For sequences the accuracy is over all positions. Raises as `score`.
    """
    found = score(model, x, y, batch, loss=loss)
    return found.accuracy, math.nan if found.loss is None else found.loss


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every submodule is in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
