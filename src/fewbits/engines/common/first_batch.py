"""One batch before the first round: what is wrong for everybody is said then, with shapes and a way out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fewbits.engines.common.failed_turn import way_out
from fewbits.engines.common.task import Task
from fewbits.errors import FewbitsError, LocalError, words
from fewbits.factor.derived import duplicate
from fewbits.learn.batches import Batch, Call, is_finite, takes_labels
from fewbits.learn.evaluation import BATCH, all_void
from fewbits.learn.examples import Examples
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.local_function import LocalFunction
from fewbits.learn.local_training import LocalTraining
from fewbits.learn.metrics import measure, tensor_hint, titled
from fewbits.learn.outputs import (
    check_cross_entropy,
    check_labels,
    computed_loss,
    cross_entropy,
    default_loss,
    described,
    logits,
)
from fewbits.learn.seeding import seeded
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
        if isinstance(task.local, LocalTraining):
            task.local.check(model, torch.device(device))
        call = _call(task, model)
        if not isinstance(task.local, LocalFunction):
            _check_clients(model.train(), call, task, device, who)
        _check_evaluation(model.eval(), call, task, device, who)


def _call(task: Task, model: nn.Module) -> Call:
    return Call(model, labels=task.shares is not None and task.loss is None and takes_labels(model))


def _loss_of(task: Task) -> Callable[[Any, Tensor], Tensor]:
    return task.loss or (cross_entropy if task.shares is None else default_loss)


def _check_clients(model: nn.Module, call: Call, task: Task, device: str, who: str) -> None:
    fit = [client for client in range(task.clients) if client not in task.unfit]
    first: LocalError | None = None
    for client in (fit[i] for i in np.linspace(0, len(fit) - 1, min(len(fit), TRIED)).astype(int)):
        name = f"{who} {client}"
        try:
            _train(model, call, _first(task, client, name).to(torch.device(device)), task, name)
        except LocalError as error:
            first = first or error
        else:
            return
    assert first is not None
    raise first


def _first(task: Task, client: int, who: str) -> Batch:
    """The first batch of a client."""
    assert not isinstance(task.local, LocalFunction)
    examples = _called(lambda: task.examples(client), f"{who}: its data fail", None)
    return _piece(examples, min(task.local.batch_size or MOST_ROWS, MOST_ROWS), who)


def _piece(examples: Examples, most: int, who: str) -> Batch:
    """The first rows, in their own order."""
    try:
        batch = _called(lambda: next(examples.piece(0, most, most), None), f"{who}: its data fail", None)
    except LocalError as error:
        raise error if str(error).startswith(who) else LocalError(f"{who}: {error}") from None
    if batch is None:
        raise LocalError(f"{who}: its data give no batch; they have {len(examples)} examples")
    return batch


def _train(model: nn.Module, call: Call, batch: Batch, task: Task, who: str) -> None:
    x, y, _ = batch
    outputs = _outputs(call, batch, who)
    value = _loss(outputs, x, y, _loss_of(task), who)
    trained = [p for p in model.parameters() if p.requires_grad]
    if trained and not value.requires_grad:
        raise LocalError(f"{who}: the loss has no gradient; return a tensor computed from the model's output")
    _check_finite(value, x, y, outputs, who)
    if trained:  # not backward(), which would add to gradients of a loss that has parameters
        what = f"{who}: the gradient fails on {_what(x, y, outputs)}"
        grads = _called(lambda: torch.autograd.grad(value, trained, allow_unused=True), what, x)
        if all(grad is None for grad in grads):
            raise LocalError(f"{who}: the loss has no gradient for the model; compute it from the model's output")


def _outputs(call: Call, batch: Batch, who: str) -> Any:
    return _called(lambda: call(batch), f"{who}: the model fails on x {described(batch.inputs)}", batch.inputs)


def _check_finite(value: Tensor, x: Any, y: Any, outputs: object, who: str) -> None:
    if not bool(torch.isfinite(value)) and is_finite(x) and is_finite(y) and not all_void(y):
        raise LocalError(f"{who}: the loss is {value.item()} on {_what(x, y, outputs)}, though the data are finite")


def _loss(outputs: Any, x: Any, y: Any, loss: Callable[[Any, Tensor], Tensor], who: str) -> Tensor:
    ours = loss is cross_entropy or (loss is default_loss and computed_loss(outputs) is None)
    if ours or (loss is functional.cross_entropy and _one_output(outputs)):
        try:
            check_cross_entropy(outputs, y)
        except LocalError as error:
            raise LocalError(f"{who}: {error}") from None
    what = f"{who}: the loss fails on {_what(x, y, outputs)}"
    with warnings.catch_warnings():
        warnings.filterwarnings("error", BROADCAST)
        value = _called(lambda: loss(outputs, y), what, x, lambda said: tensor_hint("loss", loss, outputs, said))
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


def _called(call: Callable[[], Any], what: str, x: object, hint: Callable[[str], str] = lambda said: "") -> Any:
    """What the user's own code gives; a LocalError with its sentence when it raises, and what `hint` makes of it."""
    try:
        return call()
    except FewbitsError:
        raise
    except Exception as error:  # the user's own code may raise anything
        said = words(error)
        raise LocalError(f"{what}: {type(error).__name__}: {said}{hint(said) or _hint(x, said)}") from error


def _hint(x: object, said: str) -> str:
    if "desired output type Long" in said or "desired output type Bool" in said:
        return "; this loss takes floats as targets: give y.float()"
    if "expected scalar type Long" in said or "expected target dtype to be Long" in said:
        return "; this loss takes labels as int64: give y.long()"
    if way_out(said):
        return way_out(said)
    if "stack expects each tensor to be equal size" in said or ("same size" in said and "batch" in said):
        return "; examples of several lengths need a collate function that pads them: give collate="
    if _has_texts(x):
        return "; a model takes numbers: tokenise texts in the data set, or in the function that you give as collate="
    if not isinstance(x, Tensor):
        return ""
    if x.dtype == torch.float64:
        return "; models are float32: give x.float()"
    if x.dtype == torch.uint8:
        return (
            "; uint8 tensors are scaled as pixels only where they are images (n, c, h, w): give x.float() or x.long()"
        )
    return ""


def _has_texts(x: object) -> bool:
    """Whether it is a text, a list of texts, or a dict or tuple that has such a part."""
    if isinstance(x, Mapping):
        x = list(x.values())
    return isinstance(x, str) or (isinstance(x, tuple | list) and any(map(_has_texts, x)))


def _what(x: object, y: object, outputs: object) -> str:
    return f"x {described(x)}, y {described(y)}, output {described(outputs)}"


def _check_evaluation(model: nn.Module, call: Call, task: Task, device: str, kind: str) -> None:
    """The test set, or else what the personal model of the first client with fit data is evaluated on."""
    most = MOST_ROWS if task.metric is None else BATCH  # a metric may need all classes
    if task.test is not None:
        who, examples = "test", task.test
    elif task.holds_out:
        first = next(number for number in range(task.clients) if number not in task.unfit)
        who = f"holdout of {kind} {first}"
        examples = _called(lambda: task.held_out(first), f"{who}: its data fail", None)
    else:
        return
    batch = _piece(examples, min(most, examples.batch_size or most), who).to(torch.device(device))
    x, y, _ = batch
    with torch.no_grad():
        outputs = _outputs(call, batch, who)
        value = _loss(outputs, x, y, _loss_of(task), who)
        _check_finite(value, x, y, outputs, who)
        found = logits(outputs)
        if task.loss is None and task.test_y is not None and found is not None and not y.is_floating_point():
            _check_labels(found.shape[1], task.test_y)
        if task.metric is not None:
            sums = measure(task.metric, outputs, y).sums
            if not np.isfinite(sums).all():
                name, said = titled("metric", task.metric), " over ".join(map(str, sums))
                raise LocalError(f"{who}: {name} gives {said} on {_what(x, y, outputs)}")
