"""Losses and metrics by short names, and those of a run: what it was given, or what its data need."""

from __future__ import annotations

from collections.abc import Mapping

from torch.nn import functional

from fewbits import metrics
from fewbits.cli.named_object import named_function
from fewbits.data.dataset import Data
from fewbits.errors import LocalError
from fewbits.learn.local_report import Loss
from fewbits.learn.metrics import Metric

OF_NUMBERS: Mapping[str, Loss] = {
    "mse": functional.mse_loss,
    "mae": functional.l1_loss,
    "huber": functional.huber_loss,
}
LOSSES: Mapping[str, Loss] = {
    **OF_NUMBERS,
    "bce": functional.binary_cross_entropy_with_logits,
    "cross_entropy": functional.cross_entropy,
}
METRICS: Mapping[str, Metric] = {name: getattr(metrics, name) for name in metrics.__all__}


def loss_function(text: str | None) -> Loss | None:
    """The loss of that name; None: the default.

    >>> loss_function("mse").__name__
    'mse_loss'
    """
    return None if text is None else named_function("--loss", text, "(output, y)", LOSSES)


def metric_function(text: str | None) -> Metric | None:
    """The metric of that name; None: there is none."""
    return None if text is None else named_function("--metric", text, "(output, y)", METRICS)


def objective(loss: str | None, metric: str | None, found: Data) -> tuple[Loss | None, Metric | None]:
    """Loss and metric of a run on listed data or a table; where a number is predicted, mse and R2 by default.

    Raises:
        LocalError: as for `named_function`; or the loss is one of numbers, and the data have classes.
    """
    if found.scale is not None:
        return loss_function(loss) or functional.mse_loss, metric_function(metric) or metrics.r2
    if loss in OF_NUMBERS:
        raise LocalError(
            f"--loss {loss} is a loss of numbers, and the labels of {found.name} are {found.classes} classes; to "
            "predict the numbers of a table's column, write target=COLUMN instead of label="
        )
    return loss_function(loss), metric_function(metric)


def scale_note(found: Data) -> tuple[str, ...]:
    """A sentence about the scale of a number that is predicted; () for classes."""
    if found.scale is None:
        return ()
    column, mean, deviation = found.scale.column, found.scale.mean, found.scale.deviation
    return (
        f"{column} is predicted as ({column} - {mean:.6g}) / {deviation:.6g}, by mean and deviation of the training "
        "rows; the loss, mse and mae are of that scale, and R2 is the same on any",
    )
