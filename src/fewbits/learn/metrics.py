"""Metrics: the accuracy where it means something, and a metric of the user's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from numbers import Real
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from fewbits.errors import FewbitsError, LocalError, words
from fewbits.learn.metric_sums import MetricSums
from fewbits.learn.outputs import VOID, cross_entropy, default_loss, described, logits

# (outputs, targets) -> the batch's mean, its (sum, count), or its MetricSums; outputs as the model gave them
Metric = Callable[[Any, Tensor], Any]

CROSS_ENTROPIES = (cross_entropy, default_loss, functional.cross_entropy, functional.nll_loss)
# The output from which a loss of yes or no means yes.
YES_FROM = {functional.binary_cross_entropy_with_logits: 0.0, functional.binary_cross_entropy: 0.5}


def ignored(loss: object) -> int | None:
    """The target that this loss leaves out; None: it is no cross-entropy that is known here.

    >>> ignored(functional.cross_entropy), ignored(nn.CrossEntropyLoss(ignore_index=255)), ignored(print)
    (-100, 255, None)
    """
    if isinstance(loss, partial):
        index = loss.keywords.get("ignore_index", ignored(loss.func))
    else:
        index = VOID if loss in CROSS_ENTROPIES else getattr(loss, "ignore_index", None)
    return index if isinstance(index, int) else None


def count_right(outputs: object, targets: Tensor, loss: object = cross_entropy) -> tuple[int, int] | None:
    """(right, counted) of a batch; None where an accuracy would mean nothing.

    Classes: outputs (n, classes, ...), with two classes or more, and whole targets (n, ...). Targets that the loss
    leaves out, negative ones, and one void label beyond the classes, such as 255, are not counted. Yes or no: one
    output per target, targets 0 and 1, and torch's binary cross-entropy as loss.

    >>> import torch
    >>> count_right(torch.eye(3), torch.tensor([0, 2, -100]))
    (1, 2)
    """
    found = logits(outputs)
    if found is None or not found.is_floating_point() or found.dim() == 0:
        return None
    if targets.shape == found.shape:
        return _binary(found, targets, loss)
    if targets.is_floating_point() or targets.is_complex() or found.dim() < 2 or found.shape[1] < 2:
        return None
    if targets.shape != (len(found), *found.shape[2:]):
        return None
    void = ignored(loss)
    if found.dim() > 2 and void is None and targets.shape == found.shape[:-1]:
        return None  # classes may as well be last: only a known loss says where they are
    return _classes(found, targets, void)


def _classes(found: Tensor, targets: Tensor, void: int | None) -> tuple[int, int] | None:
    targets = targets.long()
    counted = targets >= 0
    if void is not None:
        counted &= targets != void
    beyond = targets[counted & (targets >= found.shape[1])]
    if beyond.numel():
        if int(beyond.min()) != int(beyond.max()):
            return None  # these are no classes
        counted &= targets < found.shape[1]
    right = (found.argmax(1) == targets) & counted
    return int(right.sum()), int(counted.sum())


def _binary(found: Tensor, targets: Tensor, loss: object) -> tuple[int, int] | None:
    first = _yes_from(loss)
    if first is None or not (found.dim() == 1 or found.shape[1] == 1):
        return None
    if not bool(((targets == 0) | (targets == 1)).all()):
        return None
    return int(((found > first) == (targets == 1)).sum()), targets.numel()


def _yes_from(loss: object) -> float | None:
    if isinstance(loss, partial):
        return _yes_from(loss.func)
    if isinstance(loss, nn.BCEWithLogitsLoss):
        return 0.0
    if isinstance(loss, nn.BCELoss):
        return 0.5
    return next((first for known, first in YES_FROM.items() if loss is known), None)


def metric_name(metric: object) -> str:
    """What tables call it: the function's name, or the class's.

    >>> metric_name(partial(functional.l1_loss, reduction="mean")), metric_name(lambda o, y: 0)
    ('l1_loss', 'metric')
    """
    if isinstance(metric, partial):
        return metric_name(metric.func)
    name = getattr(metric, "__name__", type(metric).__name__)
    return "metric" if name == "<lambda>" else str(name)


def titled(kind: str, function: object) -> str:
    """What sentences call a loss or a metric: "loss mse_loss"; of a lambda "the loss".

    >>> titled("loss", functional.mse_loss), titled("metric", lambda o, y: 0)
    ('loss mse_loss', 'the metric')
    """
    name = metric_name(function)
    return f"the {kind}" if name == "metric" else f"{kind} {name}"


def tensor_hint(kind: str, function: object, outputs: object, said: str) -> str:
    """How to give a function the tensor within an output; "" where what it said is not about the output's type.

    >>> import torch
    >>> tensor_hint("loss", functional.mse_loss, {"logits": torch.ones(1)}, "must be Tensor, not dict")
    '; the model gives a dict: write loss=lambda output, y: mse_loss(output["logits"], y)'
    """
    name = type(outputs).__name__
    if isinstance(outputs, Tensor) or name not in said:
        return ""
    if isinstance(outputs, tuple | list):
        part = "output[0]"
    elif logits(outputs) is not None:
        part = 'output["logits"]' if type(outputs) is dict else "output.logits"
    else:
        return ""
    call = "f" if metric_name(function) == "metric" else metric_name(function)
    call = f"{call}()" if isinstance(function, nn.Module) else call
    return f"; the model gives a {name}: write {kind}=lambda output, y: {call}({part}, y)"


def check_mean(loss: object) -> None:
    """LocalError for a torch loss that is told to return another reduction of the batch than its mean.

    Gradients of a sum grow with the batch: the learning rate would depend on it, and clients' updates on their sizes.

    >>> check_mean(nn.CrossEntropyLoss(reduction="sum"))
    Traceback (most recent call last):
    fewbits.errors.LocalError: loss CrossEntropyLoss has reduction='sum'; a loss is the batch's mean: reduction='mean'
    """
    if isinstance(loss, partial):
        check_mean(loss.func)
        found = loss.keywords.get("reduction")
    else:
        found = getattr(loss, "reduction", None)
    if found in ("sum", "none"):
        raise LocalError(
            f"{titled('loss', loss)} has reduction={found!r}; a loss is the batch's mean: reduction='mean'"
        )


def measure(metric: Metric, outputs: object, targets: Tensor) -> MetricSums:
    """The sums of a metric over a batch; a mean counts once per example.

    Args:
        metric: metric(outputs, targets) -> the batch's mean, its (sum, count), or MetricSums.
        outputs: as the model gave them.
        targets: (n, ...).

    Raises:
        LocalError: the metric raises, or returns neither a number nor a pair of numbers.

    >>> import torch
    >>> measure(lambda o, y: (o - y).abs().mean(), torch.zeros(4), torch.full((4,), 0.5))
    MetricSums(kind='mean', sums=(2.0, 4.0))
    """
    who = titled("metric", metric)
    try:
        found = metric(outputs, targets)
    except FewbitsError:
        raise
    except Exception as error:  # the user's own code may raise anything
        what = f"outputs {described(outputs)}, targets {described(targets)}"
        said = f"{type(error).__name__}: {words(error)}"
        raise LocalError(f"{who} fails on {what}: {said}{tensor_hint('metric', metric, outputs, said)}") from error
    if isinstance(found, MetricSums):
        return found
    if isinstance(found, tuple | list) and len(found) == 2:
        total, count = _number(found[0]), _number(found[1])
    else:
        mean, count = _number(found), float(len(targets))
        total = None if mean is None else mean * count
    if total is None or count is None or not count >= 0:
        raise LocalError(f"{who} must return a number, the batch's mean, or a pair (sum, count); got {_shown(found)}")
    return MetricSums("mean", (total, count))


def _shown(found: object) -> str:
    return described(found) if isinstance(found, Tensor) else f"{found!r:.80}"


def _number(value: object) -> float | None:
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex() and not value.is_meta:
        value = value.item()
    elif type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        value = value.item()  # pyright: ignore
    try:
        return float(value) if isinstance(value, Real) else None
    except OverflowError:  # a whole number beyond the floats
        return None
