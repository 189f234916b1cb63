"""Which methods have room for their first round in a budget, by the forecast of `fewbits plan`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from fewbits.analysis.forecast import forecast
from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Task
from fewbits.errors import LocalError
from fewbits.factor.derived import duplicate
from fewbits.learn.method import Method
from fewbits.rng import Key
from fewbits.sizes import short_size

ADVICE = "raise the budget, or take a coarser method or fewer clients per round"
SEED = "give the model as a function of a key, so that its start travels as a seed"
MOST = 0.75  # of a first round: the model at first contact is most of it


def too_dear(schedule: Schedule, task: Task, method: Method, key: Key) -> str:
    """Why the first round alone is above the budget, with both values; "": it has room, or there is no budget."""
    if schedule.budget is None:
        return ""

    def make() -> nn.Module:
        return duplicate(task.model)

    seeded = bool(task.seed and task.build)
    (found, *_) = forecast(make, method, task.clients, schedule.per_round, 1, key, seeded=seeded)
    if found.total <= schedule.budget:
        return ""
    first = found.down_first
    most = f"; most of it, {short_size(first)}, is the model at first contact: {SEED}"
    return (
        f"one round of {method.name} costs {short_size(found.total)} by its forecast, more than the budget of "
        f"{short_size(schedule.budget)}{'' if seeded or first < MOST * found.total else most}"
    )


def check_affordable(schedule: Schedule, task: Task, method: Method, key: Key) -> None:
    """LocalError when the first round alone is above the budget."""
    _ = left_out({method.name: too_dear(schedule, task, method, key)})


def left_out(reasons: Mapping[str, str]) -> dict[str, str]:
    """Of several methods those that a budget leaves out, each with a sentence.

    Args:
        reasons: what `too_dear` says, by label.

    Raises:
        LocalError: all of them are.
    """
    found = {label: why for label, why in reasons.items() if why}
    if reasons and len(found) == len(reasons):
        said = "; ".join(dict.fromkeys(found.values()))
        raise LocalError(f"{said}; {'or ' * (SEED in said)}{ADVICE}")
    return {label: f"{label} is left out: {why}" for label, why in found.items()}
