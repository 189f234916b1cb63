"""Metrics that are no means over batches, exact over any test set: pass one as `metric=`.

Each counts in a batch what adds up, and the figure is that of all examples together, whatever the batches, the pieces
of the test set or the number of processes. Outputs are logits: a tensor, or what a model gives as `logits`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewbits.errors import LocalError
from fewbits.learn.metric_sums import MetricSums
from fewbits.learn.outputs import described, logits

__all__ = ["f1", "mae", "mse", "r2"]


def f1(outputs: object, targets: Tensor) -> MetricSums:
    """Macro F1: the mean over classes of ``2 tp / (2 tp + fp + fn)``; a class that is absent on both sides counts not.

    Args:
        outputs: (n, classes, ...) logits with whole targets (n, ...), where negative targets and those beyond the
            classes are left out. Yes or no: one logit per target, targets 0 and 1; then the figure is F1 of "yes".
            Several labels: (n, labels) logits with targets 0 and 1 of the same shape; the mean is over labels.
        targets: see above.

    Raises:
        LocalError: outputs and targets fit none of these.

    Example:
        >>> f1(torch.eye(2)[[0, 0, 1, 1]], torch.tensor([0, 1, 1, 1])).figure  # 2/3 of class 0, 4/5 of class 1
        0.7333333333333334

    Source: as scikit-learn's f1_score with average="macro"; with one logit, average="binary".
    """
    found = _logits("f1", outputs, targets)
    if found.shape == targets.shape or found.shape == (*targets.shape, 1):
        yes, true = (found.reshape(len(targets), -1) > 0), targets.reshape(len(targets), -1)
        if not bool(((true == 0) | (true == 1)).all()):
            raise LocalError("f1 with one logit per target takes targets 0 and 1; for a regression take fb.metrics.r2")
        true = true == 1
    elif found.dim() > 1 and targets.shape == (len(found), *found.shape[2:]) and not targets.is_floating_point():
        classes, flat = found.shape[1], targets.reshape(-1).long()
        counted = (flat >= 0) & (flat < classes)
        places = torch.arange(classes, device=found.device)
        yes = found.argmax(1).reshape(-1)[counted, None] == places
        true = flat[counted, None] == places
    else:
        raise LocalError(f"f1 takes logits and classes; got {described(found)} and {described(targets)}")
    columns = (yes & true).sum(0), (yes & ~true).sum(0), (~yes & true).sum(0)
    return MetricSums("macro F1", tuple(torch.stack(columns, 1).reshape(-1).double().tolist()))


def r2(outputs: object, targets: Tensor) -> MetricSums:
    """The share of variance that a regression explains, ``1 - sum (y - y')^2 / sum (y - mean y)^2``.

    Args:
        outputs: as many numbers as targets; of several outputs per example the mean of their figures is taken.
        targets: (n,), (n, 1) or (n, outputs).

    Raises:
        LocalError: there are more or fewer outputs than targets.

    Example:
        >>> r2(torch.tensor([1.0, 2.0, 3.5]), torch.tensor([1.0, 2.0, 3.0])).figure
        0.875

    Source: as scikit-learn's r2_score. Where all targets are equal there is no figure.
    """
    y, missed = _residuals("r2", outputs, targets)
    columns = torch.full_like(y[0], len(y)) if len(y) else y.sum(0), y.sum(0), (y * y).sum(0), (missed * missed).sum(0)
    return MetricSums("R2", tuple(torch.stack(columns, 1).reshape(-1).tolist()))


def mse(outputs: object, targets: Tensor) -> MetricSums:
    """The mean squared error over all targets.

    Args:
        outputs: as many numbers as targets.
        targets: (n, ...).

    Raises:
        LocalError: there are more or fewer outputs than targets.

    Example:
        >>> mse(torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 1.0])).figure
        2.0
    """
    _, missed = _residuals("mse", outputs, targets)
    return _mean(missed * missed)


def mae(outputs: object, targets: Tensor) -> MetricSums:
    """The mean absolute error over all targets.

    Args:
        outputs: as many numbers as targets.
        targets: (n, ...).

    Raises:
        LocalError: there are more or fewer outputs than targets.

    Example:
        >>> mae(torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 1.0])).figure
        1.0
    """
    _, missed = _residuals("mae", outputs, targets)
    return _mean(missed.abs())


def _mean(errors: Tensor) -> MetricSums:
    return MetricSums("mean", (float(errors.sum()), float(errors.numel())))


def _logits(name: str, outputs: object, targets: Tensor) -> Tensor:
    found = logits(outputs)
    if found is None or not found.is_floating_point() or found.dim() == 0 or len(found) != len(targets):
        raise LocalError(f"{name} takes a tensor of logits; got {described(outputs)} and {described(targets)}")
    return found


def _residuals(name: str, outputs: object, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Targets, and what was missed.  # (n, outputs) float64, twice"""
    found = _logits(name, outputs, targets)
    if found.numel() != targets.numel() or found.squeeze().shape != targets.squeeze().shape:
        raise LocalError(f"{name} takes as many outputs as targets; got {described(found)} and {described(targets)}")
    y = targets.double().reshape(len(targets), -1)
    return y, y - found.double().reshape(len(targets), -1)
