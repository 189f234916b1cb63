"""What a Server is given: its parts fit each other, or a sentence says which do not."""

from __future__ import annotations

import torch
from torch import nn

from fewbits.errors import LocalError
from fewbits.learn.method import Method
from fewbits.learn.module_checks import check_module
from fewbits.rng import Key


def check_arguments(model: object, method: Method, key: object, total_weight: float | None) -> None:
    """LocalError unless a server can have these."""
    if not isinstance(key, Key):
        raise LocalError(f"Server: key must be a Key, such as Key(0); got {key!r}")
    everybody = method.normalise == "all" or method.objective.server_vectors or method.server_optimizer.needs_objective
    if everybody and total_weight is None:
        raise LocalError(
            f'Server: normalise="all", Scaffold and FedDyn need total_weight, everybody\'s examples; got '
            f"{method.normalise!r}, {method.objective!r} and {total_weight}"
        )
    if not isinstance(model, nn.Module):
        raise LocalError(f"Server: model must be a torch module; got {type(model).__name__}")
    check_module(model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if device.type != "cpu":
        raise LocalError(f"Server: sums are taken on the CPU; the model is on {device}")
