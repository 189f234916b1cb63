"""The model of a plan: by its name, by its number of parameters, or by the shapes in a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from torch import nn

from fewbits import models
from fewbits.cli.named_object import is_named_object, named_model
from fewbits.data import data_info
from fewbits.errors import LocalError
from fewbits.models.build import model_entry
from fewbits.models.shapes import of_shapes
from fewbits.rng import Key


def plan_model(
    model: str, data: str | None, params: int | None, shapes: Path | None, key: Key
) -> tuple[Callable[[], nn.Module], str]:
    """A function that makes the model of a run with this key, and the model's description."""
    if params is not None and shapes is not None:
        raise LocalError("plan: give --params or --shapes, not both")
    if params is not None:
        return lambda: of_shapes({"model.numbers": (params,)}), f"{params:,} parameters"
    if shapes is not None:
        found = read_shapes(shapes)
        return lambda: of_shapes(found), f"{shapes.name}, {_count(of_shapes(found))}"
    if is_named_object(model):
        if data is not None:
            raise LocalError(f"plan: --data {data} has no meaning with --model {model}, which takes no shape from it")
        return lambda: named_model(
            model, key.fold("model")
        ), f"{model}, {_count(named_model(model, key.fold('model')))}"
    if is_named_object(data):
        raise LocalError(
            f"plan: {model} is built for a listed data set; give --model module:function, without --data {data}"
        )
    data = data or model_entry(model).data
    known = data_info(data)

    def make() -> nn.Module:
        return models.build(model, known, key.fold("model"))

    return make, f"{model} on {data}, {_count(make())}"


def _count(model: nn.Module) -> str:
    return f"{sum(p.numel() for p in model.parameters()):,} parameters"


def read_shapes(path: Path) -> dict[str, list[int]]:
    """Names and shapes from a JSON file; `of_shapes` checks them."""
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise LocalError(f"--shapes {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise LocalError(f"--shapes {path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise LocalError(
            f'--shapes {path}: expected an object such as {{"fc.weight": [10, 64]}}; got {type(found).__name__}'
        )
    return found
