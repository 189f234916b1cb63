"""A batch: what a data set or a loader gives, as a model's inputs and a loss's targets."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fewbits.errors import LocalError
from fewbits.learn.outputs import described

LABELS = ("labels", "label", "targets", "target", "y")  # keys that hold the targets; the first one that is there
FORM = "(x, y), (x, more, ..., y), or a dict with the targets under one of " + ", ".join(LABELS)


class ClientDataError(LocalError):
    """What is wrong with the data of one client: it costs the client's turn, not the run.

    Example:
        >>> isinstance(ClientDataError("it has no example"), LocalError)
        True
    """


class Inputs(tuple[Any, ...]):
    """Several inputs, which a model takes one after the other."""

    __slots__ = ()


class Batch(NamedTuple):
    """What a model is called with, what a loss compares its output to, and the number of examples."""

    inputs: Any  # a tensor; `Inputs`; or a mapping of what the model takes by name
    targets: Any  # a tensor as a rule
    size: int

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(moved(self.inputs, device), moved(self.targets, device), self.size)


def parted(value: object, who: str = "a batch") -> Batch:
    """A batch of what a loader gives.

    A pair is (x, y). Of more values the last one is the targets, and the model takes all others. A mapping goes to
    the model by its names; the targets are under "labels", "label", "targets", "target" or "y".

    Args:
        value: what a data set's collate function returned.
        who: what an error calls it.

    Raises:
        LocalError: it is none of these, or has no example.

    Example:
        >>> batch = parted({"input_ids": torch.zeros(2, 5), "labels": torch.tensor([0, 1])})
        >>> sorted(batch.inputs), batch.targets, batch.size
        (['input_ids', 'labels'], tensor([0, 1]), 2)
    """
    if isinstance(value, Mapping):
        name = next((name for name in LABELS if name in value), None)
        if name is None or len(value) < 2:
            names = ", ".join(map(repr, value)) or "none"
            raise ClientDataError(f"{who} must be {FORM}; got a {type(value).__name__} with the keys {names}")
        inputs, targets = value, value[name]
    elif isinstance(value, tuple | list) and len(value) >= 2:
        inputs, targets = (value[0] if len(value) == 2 else Inputs(value[:-1])), value[-1]
    else:
        raise ClientDataError(f"{who} must be {FORM}; got {described(value)}")
    size = rows(targets)
    if not size:
        raise ClientDataError(f"{who} must have one example or more; its targets are {described(targets)}")
    return Batch(inputs, targets, size)


def rows(value: object) -> int:
    """The number of examples in a tensor, or in the first tensor of a mapping or tuple; 0: there is none.

    >>> rows({"mask": torch.ones(3, 4)}), rows("text")
    (3, 0)
    """
    if isinstance(value, Tensor):
        return len(value) if value.dim() else 0
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return next((count for part in value if (count := rows(part))), 0)
    return 0


def moved(value: Any, device: torch.device) -> Any:
    """The same with every tensor on the device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: moved(part, device) for name, part in value.items()}
    if isinstance(value, tuple | list):
        parts = [moved(part, device) for part in value]
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*parts)
        return type(value)(parts)
    return value


def is_finite(value: object) -> bool:
    """Whether no floating-point tensor in it has an infinite or NaN value."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, Mapping):
        value = list(value.values())
    return all(map(is_finite, value)) if isinstance(value, tuple | list) else True


class Call:
    """Calls a model on the inputs of batches.

    A mapping goes by the names that the model's `forward` has; others are left out, and `remarks` names them. Where
    a mapping has one entry beside the targets, and the model takes no such name, the entry is the model's one input.

    Args:
        model: the module.
        labels: whether the model gets the targets, too, to compute its loss as Hugging Face's models do.

    Example:
        >>> call = Call(nn.Linear(3, 2), labels=False)
        >>> call(parted({"image": torch.ones(4, 3), "label": torch.zeros(4)})).shape
        torch.Size([4, 2])
    """

    def __init__(self, model: nn.Module, labels: bool) -> None:
        self._model, self._labels = model, labels
        # by a batch's keys: the key of each argument; a text: the key of the one input
        self._arguments: dict[tuple[str, ...], dict[str, str] | str] = {}
        self._left_out: dict[str, None] = {}  # in the order in which they were seen

    def __call__(self, batch: Batch | Tensor) -> Any:
        """The model's output; what the model raises goes through."""
        inputs = batch.inputs if isinstance(batch, Batch) else batch
        if isinstance(inputs, Inputs):
            return self._model(*inputs)
        if not isinstance(inputs, Mapping):
            return self._model(inputs)
        keys = tuple(map(str, inputs))
        if keys not in self._arguments:
            self._arguments[keys] = self._matched(keys)
        found = self._arguments[keys]
        if isinstance(found, str):
            return self._model(inputs[found])
        return self._model(**{name: inputs[key] for name, key in found.items()})

    @property
    def remarks(self) -> tuple[str, ...]:
        """A sentence for each column that was left out."""
        return tuple(f"the model takes no {name!r}, so that column of the data is left out" for name in self._left_out)

    def _matched(self, keys: tuple[str, ...]) -> dict[str, str] | str:
        """Which of the keys the model takes, and as what."""
        taken, any_name = accepted(self._model)
        target = next(name for name in LABELS if name in keys)
        others = [key for key in keys if key != target]
        found = {key: key for key in others if any_name or key in taken}
        if not found and len(others) == 1:
            return others[0]
        if not found:
            raise ClientDataError(
                f"the model's forward takes {', '.join(map(repr, taken)) or 'no argument by name'}, and the batch has "
                f"{', '.join(map(repr, others))}; rename the columns, or give a collate function that returns the "
                "model's names"
            )
        self._left_out |= dict.fromkeys(key for key in others if key not in found)
        return found | ({"labels": target} if self._labels and "labels" in taken else {})


def accepted(model: nn.Module) -> tuple[tuple[str, ...], bool]:
    """The names that a model's forward takes, and whether it takes any name.

    A wrapper that passes everything on, as PEFT's models do, takes what the model within it takes.

    >>> accepted(nn.Linear(3, 2))
    (('input',), False)
    """
    parameters = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        return tuple(names), False
    inner = getattr(model, "get_base_model", None)
    within = inner() if callable(inner) else None
    if isinstance(within, nn.Module) and within is not model:
        more, any_name = accepted(within)
        return tuple(dict.fromkeys([*names, *more])), any_name and not _hugging_face(within)
    return tuple(names), not _hugging_face(model)


def _hugging_face(model: nn.Module) -> bool:
    """Whether its forward's **kwargs are options of a library, no inputs: an unknown column would fail deep inside."""
    return hasattr(model, "main_input_name")


def takes_labels(model: nn.Module) -> bool:
    """Whether the model's forward takes the targets, and computes a loss from them by itself."""
    return "labels" in accepted(model)[0]
