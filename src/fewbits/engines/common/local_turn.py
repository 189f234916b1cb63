"""One client's local training within its turn: what the user's code raises or reports costs the turn, not the run."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from numbers import Integral, Real

from torch import Tensor

from fewbits.checks import check_number, check_whole
from fewbits.engines.common.failed_turn import sentence
from fewbits.engines.common.process_settings import same_settings
from fewbits.engines.common.task import Task
from fewbits.errors import LocalError
from fewbits.learn.batches import ClientDataError
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.local import Correction, LocalReport, LocalSGD
from fewbits.learn.local_function import LocalFunction
from fewbits.learn.outputs import cross_entropy
from fewbits.learn.seeding import seeded
from fewbits.rng import Key

MOST_STEPS = 2**31 - 1


def train_locally(
    task: Task,
    model: FlatModel,
    client: int,
    round: int,
    key: Key,
    correct: Correction | None = None,
    draws: bool = False,
    state: bytes = b"",
) -> LocalReport | str:
    """Train in place; the report, or why the turn failed. The module is whole afterwards.

    Where a turn runs the code of torch and of this package alone, it changes no setting of the process and no layer of
    the model, and nobody looks. Then `model.undisturbed` is True, and whoever takes the update sets it to False.

    Args:
        task: with the client's examples.
        model: as the client begins.
        client: its number.
        round: from 1.
        key: of this client in this round.
        correct: what the objective adds to gradients.
        draws: whether the objective may draw random numbers, which `LocalSGD` cannot see.
        state: the optimizer's, where it stays with the client; b"": it begins.
    """
    if client in task.unfit:
        return task.unfit[client]
    model.undisturbed = not draws and _is_known(task, model)
    model.foreign |= not model.undisturbed
    try:
        if model.undisturbed:
            return _trained(task, model, client, round, key, correct, state)
        with same_settings(), seeded(key.fold("noise"), model.params.device) if draws else nullcontext():
            report = _trained(task, model, client, round, key, correct, state)
    except ClientDataError as error:
        model.repair()
        return str(error)
    except Exception as error:  # noqa: BLE001 - the user's model, loss and data may raise anything
        model.undisturbed = False
        failed = sentence(error)
        model.repair()
        return failed
    return model.repair() or checked(report)


def _is_known(task: Task, model: FlatModel) -> bool:
    """Whether a turn runs the code of torch and of this package alone."""
    local, loss = task.local, task.loss or cross_entropy
    plain = type(task.x) is type(task.y) is Tensor  # None: the data have another form
    return plain and type(local) is LocalSGD and not local.draws(model, loss)


def _trained(
    task: Task,
    model: FlatModel,
    client: int,
    round: int,
    key: Key,
    correct: Correction | None,
    state: bytes,
) -> LocalReport:
    local = task.local.at(round)
    if isinstance(local, LocalFunction):
        given = task.shares.given(client) if task.shares else _pair(task, client)
        examples = task.shares.of(given, client) if task.shares else task.examples(client)
        return local.call(model, given, examples, key, round=round, client=client, loss=task.loss, correct=correct)
    if isinstance(local, LocalSGD) and task.shares is None:  # somebody's subclass may have a `train` of its own
        rows = task.parts[client]
        return local.train(model, *task.pairs, rows, key, loss=task.loss or cross_entropy, correct=correct)
    examples = task.examples(client)
    return local.fit(model, examples, key, round=round, loss=task.loss, correct=correct, state=state)


def _pair(task: Task, client: int) -> tuple[Tensor, Tensor]:
    """A client's own rows."""
    batch = next(task.examples(client).piece(0, len(task.parts[client]), len(task.parts[client])))
    return batch.inputs, batch.targets


def checked(report: object) -> LocalReport | str:
    """The report of somebody's `LocalSGD.train` in Python's own numbers, or what is wrong with it.

    >>> checked(LocalReport(steps=2, examples=20, loss="low"))
    "a LocalReport's loss must be a number or None; got 'low'"
    """
    if not isinstance(report, LocalReport):
        return f"local training must return a LocalReport; got {type(report).__name__}"
    try:
        for name in ("steps", "without_loss", "without_target"):
            check_whole(f"a LocalReport's {name}", getattr(report, name), 0, MOST_STEPS, numpy=True)
        check_number("a LocalReport's examples", report.examples, "(0, inf)", numpy=True)
        if report.loss is not None and (not isinstance(report.loss, Real) or isinstance(report.loss, bool)):
            raise LocalError(f"a LocalReport's loss must be a number or None; got {report.loss!r}")
        examples = int(report.examples) if isinstance(report.examples, Integral) else float(report.examples)
        loss = None if report.loss is None else float(report.loss)
        return replace(report, steps=int(report.steps), examples=examples, loss=loss)
    except LocalError as error:
        return str(error)
    except OverflowError:
        return "a LocalReport's loss is beyond the largest float"
