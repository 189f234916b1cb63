"""What was trained, as the line below a report's title and as settings."""

from __future__ import annotations

import hashlib
import re

from torch import nn

from fewbits.engines.common.task import Task

MODEL_TEXT = "model"  # its name in summary.json
MODEL_PARTS = "model_parts"  # likewise


def subtitle(task: Task, clients: str, length: str) -> str:
    """A sentence about the model, the clients or nodes, and the length of the run."""
    return f"{model_text(task.model)}, {clients} {length}."


def model_text(model: nn.Module) -> str:
    """A model in a few words, by which a report tells unlike models apart.

    >>> model_text(nn.Linear(20, 50))
    'Linear of 1,050 parameters'
    """
    return f"{type(model).__name__} of {sum(p.numel() for p in model.parameters()):,} parameters"


def model_figures(model: nn.Module) -> dict[str, str]:
    """What summary.json says of the model."""
    return {MODEL_TEXT: model_text(model), MODEL_PARTS: model_parts(model)}


def model_parts(model: nn.Module) -> str:
    """A digest of a model's layers as it prints them, by which models of as many parameters are told apart.

    >>> model_parts(nn.Tanh()) == model_parts(nn.ReLU())
    False
    """
    text = re.sub(r"0x[0-9a-f]+", "", repr(model))  # addresses say nothing
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def participants(task: Task, per_round: int | None) -> str:
    """How many clients there are, and how many of them take part in a round."""
    return f"{task.clients} clients, {per_round or 'all'} of them"


def shown_settings(task: Task) -> dict[str, object]:
    """What an observer is told of a task, beside its local training."""
    return {"model": type(task.model).__name__, "clients": task.clients, "metric": task.metric_name}
