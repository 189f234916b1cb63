"""Checks of a run: its arguments before it begins, and the first round, where a fault of the task shows."""

from __future__ import annotations

from collections.abc import Sequence

from fewbits.engines.common.failed_turn import common_failure
from fewbits.engines.common.first_batch import check_first_batch
from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Task
from fewbits.engines.common.task_identity import local_settings, task_settings
from fewbits.engines.simulation.worker import Reply
from fewbits.errors import LocalError
from fewbits.learn.adaptive_steps import adaptive_rules, check_adaptive
from fewbits.learn.local import LocalSGD
from fewbits.learn.method import Method
from fewbits.rng import Key
from fewbits.wire.identity import canonical


def check_arguments(task: Task, method: object, schedule: Schedule, key: object) -> None:
    """LocalError unless the arguments of a run fit each other."""
    if not isinstance(method, Method):
        raise LocalError(f"Federation: method must be a Method, such as fewbits.methods.lbgm(); got {method!r}")
    if not isinstance(key, Key):
        raise LocalError(f"Federation: key must be a Key, such as Key(0); got {key!r}")
    if schedule.per_round is not None and schedule.per_round > task.clients:
        raise LocalError(f"per_round is {schedule.per_round}, but there are {task.clients} clients")
    method.objective.check(task.local)
    if any(adaptive_rules(method.up)):
        if not isinstance(task.local, LocalSGD) or task.shares is not None:
            raise LocalError(
                "the Adaptive threshold computes with the steps and the learning rate of SGD on tensors; give "
                "local=fb.LocalSGD(...) and (x, y) pairs, or a threshold that is a number; got a "
                f"{type(task.local).__name__}"
            )
        for client, part in enumerate(task.parts):
            if client not in task.unfit:
                check_adaptive(method.up, client, task.local.steps_for(len(part)), task.local.lr)
    check_first_batch(task, schedule.device)


def check_first_round(number: int, replies: Sequence[Reply], task: Task) -> None:
    """LocalError when every client of the first round raised the same."""
    raised = [reply.trouble for reply in replies if reply.raised and reply.client not in task.unfit]
    fault = common_failure(raised, len(replies), task.clients) if number == 1 else None
    if fault is not None:
        raise LocalError(
            f"every client of round 1 failed alike, so the model, the loss or the data is at fault. Client "
            f"{replies[0].client}: {fault}"
        )


def run_settings(task: Task, method: Method, schedule: Schedule, key: Key) -> dict[str, str]:
    """What a resumed run must have in common with its earlier part; its length and evaluations are free."""
    return {
        "method": canonical(method),
        "key": key.text(),
        "local training": local_settings(task.local),
        "clients": f"{task.clients} with {'unknown' if task.sizes is None else sum(task.sizes)} examples",
        "clients per round": str(schedule.per_round or task.clients),
        **task_settings(task),
    }
