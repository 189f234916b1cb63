"""The task of a run with data of the user's: what the function behind --data gives, with model, loss and metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from fewbits.choices import unknown
from fewbits.cli.config import RunConfig
from fewbits.cli.named_object import made, named_object
from fewbits.engines.common.any_task import ClientData, held_out, task_over
from fewbits.engines.common.task import Task
from fewbits.errors import LocalError
from fewbits.learn.outputs import described
from fewbits.learn.seeding import seeded
from fewbits.rng import Key

KEYS = ("clients", "test", "collate", "population")  # of a dict that the function may return
DRAWS = Key(0).fold("data")  # what seeds the function: all runs of a comparison have the same data


def users_task(config: RunConfig) -> Task:
    """The task that the function behind `config.data` describes; its model is no more than a place for the run's.

    Args:
        config: of the run.

    Raises:
        LocalError: the function is not found, raises, or returns something else; or its data have no known form.
    """
    text = config.data
    function = named_object("--data", text)
    if not callable(function):
        raise LocalError(
            f"--data {text}: it must be a function that returns (clients, test); got {described(function)}"
        )
    with seeded(DRAWS):
        found = _parts(text, made("--data", text, function))
    local, loss, metric = config.local(), config.loss_function(), config.metric_function()
    try:
        data = ClientData(found["clients"], found.get("collate"), found.get("population"))
        task = task_over(nn.Identity(), data, found.get("test"), local, loss, metric)
        return held_out(task, config.holdout or None)
    except LocalError as error:
        raise LocalError(f"--data {text}: {error}") from None


def _parts(text: str, found: object) -> Mapping[str, Any]:
    if isinstance(found, tuple) and len(found) == 2:
        return dict(zip(("clients", "test"), found, strict=True))
    if not isinstance(found, Mapping) or "clients" not in found:
        raise LocalError(
            f"--data {text}: it must return (clients, test), or a dict with the keys {', '.join(KEYS)}; got "
            f"{described(found)}"
        )
    for key in found:
        if key not in KEYS:
            raise LocalError(f"--data {text}: {unknown('key', str(key), KEYS)}")
    return found
