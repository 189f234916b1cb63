"""A task from data in any form: a list with one for each client, or a function that makes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from fewbits.checks import shown
from fewbits.data.partition import check_share, hold_out
from fewbits.engines.common.given_data import shares_of
from fewbits.engines.common.held_out import HeldOutShares
from fewbits.engines.common.shares import examples_of
from fewbits.engines.common.task import Local, Loss, Task
from fewbits.errors import LocalError
from fewbits.learn.examples import Collate
from fewbits.learn.local import LocalSGD
from fewbits.learn.local_function import LocalFunction
from fewbits.learn.local_training import LocalTraining, optimizer_hint
from fewbits.learn.metrics import Metric
from fewbits.rng import Key


@dataclass(frozen=True, eq=False)
class ClientData:
    """The clients' data as a caller gives them."""

    clients: Any  # a list with a form of data for each client, or a function of the client's number
    collate: Collate | None = None  # makes a batch of a list of examples, where the data are data sets
    population: int | None = None  # how many clients there are, where `clients` is a function
    who: str = "client"  # what errors call one


def task_over(
    model: nn.Module,
    data: ClientData,
    test: Any = None,
    local: Local | Callable[..., Any] | None = None,
    loss: Loss | None = None,
    metric: Metric | None = None,
) -> Task:
    """A task from any form of data. Pairs of tensors are stored as one array for all clients, as `of` does.

    Args:
        model: as for Task.
        data: the clients'.
        test: any form of data, or None.
        local: as for Task; a function becomes a LocalFunction.
        loss: as for Task.
        metric: as for Task.

    Raises:
        LocalError: as for Task; or a form of data is not known.
    """
    if isinstance(local, type):
        raise LocalError(
            f"local is the class {local.__name__}; give one of it, such as fb.LocalSGD(lr=0.1)"
            if local in (LocalSGD, LocalTraining)
            else f"local must be a function of (model, data, context); got the class {local.__name__}"
            + optimizer_hint(local)
        )
    if local is not None and not isinstance(local, Local) and callable(local):
        local = LocalFunction(local)
    collate = data.collate
    if collate is not None and not callable(collate):
        raise LocalError(f"collate must be a function of a list of examples; got {shown(collate)}")
    shares = shares_of(data.clients, data.population, collate, test, data.who)
    if shares is None:
        return Task.of(model, data.clients, test, local, loss, metric, data.who)
    if metric is not None and test is None:
        raise LocalError("metric needs examples to be measured on; give test=")
    found = None if test is None else examples_of(test, "test", collate)
    if found is not None and not len(found):
        raise LocalError("test: it has no example")
    return Task(model, local=local or LocalSGD(lr=0.1), loss=loss, metric=metric, shares=shares, test=found)


def held_out(task: Task, share: float | None) -> Task:
    """The task with a share of every client's examples for the evaluation of its own model.

    The examples are the same whatever the run's seed is. None: the task as it is.

    Raises:
        LocalError: the share is not between 0 and 1, a client has one example only, or its data are a loader or a
            stream.
    """
    if share is None:
        return task
    key = Key(0).fold("holdout")
    if task.shares is not None:
        check_share(share)
        return replace(task, shares=HeldOutShares(task.shares, float(share), key))
    parts, tests = hold_out(task.parts, share, key, task.unfit)
    return replace(task, parts=parts, holdout=tests)
