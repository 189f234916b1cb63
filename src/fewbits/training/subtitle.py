"""What was trained, as the line below a report's title and as settings."""

from __future__ import annotations

from fewbits.engines.common.task import Task


def subtitle(task: Task, clients: str, length: str) -> str:
    """A sentence about the model, the clients or nodes, and the length of the run."""
    numbers = sum(p.numel() for p in task.model.parameters())
    return f"{type(task.model).__name__} of {numbers:,} parameters, {clients} {length}."


def participants(task: Task, per_round: int | None) -> str:
    """How many clients there are, and how many of them take part in a round."""
    return f"{task.clients} clients, {per_round or 'all'} of them"


def shown_settings(task: Task) -> dict[str, object]:
    """What an observer is told of a task, beside its local training."""
    return {"model": type(task.model).__name__, "clients": task.clients, "metric": task.metric_name}
