"""One batch before the first round: what is wrong for everybody is said then, with shapes and a way out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fewbits.engines.common.failed_turn import way_out
from fewbits.engines.common.task import Task
from fewbits.errors import FewbitsError, LocalError, words
from fewbits.factor.derived import duplicate
from fewbits.learn.evaluation import BATCH, all_void
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.metrics import measure, titled
from fewbits.learn.outputs import check_cross_entropy, check_labels, cross_entropy, described, logits
from fewbits.learn.seeding import seeded
from fewbits.learn.select import select
from fewbits.rng import Key

MOST_ROWS = 32  # of one client, and of the test set
BROADCAST = "Using a target size"  # torch's warning that a loss pairs every output with every target
TRIED = 8  # clients, at most: a fault in one client's data is no reason to end the run


def check_first_batch(task: Task, device: str = "cpu", who: str = "client") -> None:
    """Train a copy of the model on one batch of a client, and evaluate it on the first rows of the test set.

    Nothing of the model changes, and no generator of random numbers moves. A fault is one of the run when the first
    rows of several clients have it.

    Args:
        task: the model, and all data.
        device: where clients will train.
        who: "client" or "node".

    Raises:
        LocalError: the model, the loss or the metric fails, or does not give what training needs.
    """
    model = duplicate(task.model)
    FlatModel(model)  # its sentences come first: they name what of a module cannot be sent
    model.to(device)
    with seeded(Key(0).fold("first batch"), device):
        _check_clients(model.train(), task, device, who)
        _check_evaluation(model.eval(), task, device, who)


def _check_clients(model: nn.Module, task: Task, device: str, who: str) -> None:
    fit = [client for client in range(len(task.parts)) if client not in task.unfit]
    first: LocalError | None = None
    for client in (fit[i] for i in np.linspace(0, len(fit) - 1, min(len(fit), TRIED)).astype(int)):
        part = task.parts[client]
        rows = part[: min(task.local.batch_size or MOST_ROWS, MOST_ROWS)]
        try:
            _train(model, *_batch(task.x, task.y, rows, device), task.loss or cross_entropy, f"{who} {client}")
        except LocalError as error:
            first = first or error
        else:
            return
    assert first is not None
    raise first


def _batch(x: Tensor, y: Tensor, rows: np.ndarray, device: str) -> tuple[Tensor, Tensor]:
    chosen = torch.from_numpy(np.asarray(rows, np.int64)).to(x.device)
    return select(x, chosen).to(device), y.index_select(0, chosen).to(device)


def _train(model: nn.Module, x: Tensor, y: Tensor, loss: Callable[[Any, Tensor], Tensor], who: str) -> None:
    outputs = _outputs(model, x, who)
    value = _loss(outputs, x, y, loss, who)
    trained = [p for p in model.parameters() if p.requires_grad]
    if trained and not value.requires_grad:
        raise LocalError(f"{who}: the loss has no gradient; return a tensor computed from the model's output")
    if not bool(torch.isfinite(value)) and _finite(x) and _finite(y) and not all_void(y):
        raise LocalError(f"{who}: the loss is {value.item()} on {_what(x, y, outputs)}, though the data are finite")
    if trained:  # not backward(), which would add to gradients of a loss that has parameters
        what = f"{who}: the gradient fails on {_what(x, y, outputs)}"
        grads = _called(lambda: torch.autograd.grad(value, trained, allow_unused=True), what, x)
        if all(grad is None for grad in grads):
            raise LocalError(f"{who}: the loss has no gradient for the model; compute it from the model's output")


def _outputs(model: nn.Module, x: Tensor, who: str) -> Any:
    return _called(lambda: model(x), f"{who}: the model fails on x {described(x)}", x)


def _loss(outputs: Any, x: Tensor, y: Tensor, loss: Callable[[Any, Tensor], Tensor], who: str) -> Tensor:
    if loss is cross_entropy or (loss is functional.cross_entropy and _one_output(outputs)):
        try:
            check_cross_entropy(outputs, y)
        except LocalError as error:
            raise LocalError(f"{who}: {error}") from None
    what = f"{who}: the loss fails on {_what(x, y, outputs)}"
    with warnings.catch_warnings():
        warnings.filterwarnings("error", BROADCAST)
        value = _called(lambda: loss(outputs, y), what, x)
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise LocalError(
            f"{who}: {titled('loss', loss)} must return a tensor of one number, the batch's mean; "
            f"got {described(value)} for {_what(x, y, outputs)}"
        )
    return value


def _check_labels(classes: int, targets: Tensor) -> None:
    try:
        check_labels(classes, targets)
    except LocalError as error:
        raise LocalError(f"test: {error}") from None


def _one_output(outputs: object) -> bool:
    return isinstance(outputs, Tensor) and (outputs.dim() < 2 or outputs.shape[1] == 1)


def _called(call: Callable[[], Any], what: str, x: Tensor) -> Any:
    """What the user's own code gives; a LocalError with its sentence when it raises."""
    try:
        return call()
    except FewbitsError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise LocalError(f"{what}: {type(error).__name__}: {words(error)}{_hint(x, words(error))}") from error


def _hint(x: Tensor, said: str) -> str:
    if "desired output type Long" in said or "desired output type Bool" in said:
        return "; this loss takes floats as targets: give y.float()"
    if "expected scalar type Long" in said or "expected target dtype to be Long" in said:
        return "; this loss takes labels as int64: give y.long()"
    if way_out(said):
        return way_out(said)
    if x.dtype == torch.float64:
        return "; models are float32: give x.float()"
    if x.dtype == torch.uint8:
        return (
            "; uint8 tensors are scaled as pixels only where they are images (n, c, h, w): give x.float() or x.long()"
        )
    return ""


def _what(x: Tensor, y: Tensor, outputs: object) -> str:
    return f"x {described(x)}, y {described(y)}, output {described(outputs)}"


def _finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())


def _check_evaluation(model: nn.Module, task: Task, device: str, kind: str) -> None:
    """The test set, or else what the first client's personal model is evaluated on."""
    most = MOST_ROWS if task.metric is None else BATCH  # a metric may need all classes
    if task.test_x is not None and task.test_y is not None:
        who, batch = "test", _batch(task.test_x, task.test_y, np.arange(min(len(task.test_y), most)), device)
    elif task.holdout:
        who, batch = f"holdout of {kind} 0", _batch(task.x, task.y, task.holdout[0][:most], device)
    else:
        return
    x, y = batch
    with torch.no_grad():
        outputs = _outputs(model, x, who)
        value = _loss(outputs, x, y, task.loss or cross_entropy, who)
        if not bool(torch.isfinite(value)) and _finite(x) and _finite(y) and not all_void(y):
            raise LocalError(f"{who}: the loss is {value.item()} on {_what(x, y, outputs)}, though the data are finite")
        found = logits(outputs)
        if task.loss is None and task.test_y is not None and found is not None and not y.is_floating_point():
            _check_labels(found.shape[1], task.test_y)
        if task.metric is not None:
            total, count = measure(task.metric, outputs, y)
            if not np.isfinite([total, count]).all():
                name = titled("metric", task.metric)
                raise LocalError(f"{who}: {name} gives {total} over {count} on {_what(x, y, outputs)}")
