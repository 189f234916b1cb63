"""The model that a run starts from: a module, or a function that makes one, from a key where it takes one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fewbits.engines.common.task import Task
from fewbits.errors import FewbitsError, LocalError, words
from fewbits.factor.derived import duplicate
from fewbits.learn.outputs import described
from fewbits.learn.seeding import seeded
from fewbits.rng import Key

Model = nn.Module | Callable[..., nn.Module]


@dataclass(frozen=True, eq=False)
class ModelOfKey:
    """Makes the initial model from a run's key, as a client does at first contact; for this run's it makes a copy.

    Args:
        function: makes a module from a key.
        key: the run's.
        initial: what the function makes for it; never changed.
    """

    function: Callable[[Key], nn.Module]
    key: Key
    initial: nn.Module

    def __call__(self, key: Key) -> nn.Module:
        """The model."""
        return duplicate(self.initial) if key == self.key else made("model", self.function, key.fold("model"))


@dataclass(frozen=True, eq=False)
class InitialModel:
    """A run's model as it starts; `seed` and `build` are those of a Task, where clients can make it from a key."""

    module: nn.Module
    seed: Key | None = None
    build: ModelOfKey | None = None

    @staticmethod
    def of(model: Model, key: Key) -> InitialModel:
        """The initial model of the run with this key; LocalError when a function makes none."""
        if isinstance(model, nn.Module) or not callable(model):
            return InitialModel(model)
        module = made(f"model {getattr(model, '__name__', type(model).__name__)}", model, key.fold("model"))
        return InitialModel(module, *seed_of(model, duplicate(module), key))  # the module is trained in place

    def started(self, task: Task) -> Task:
        """The task, whose clients make the model themselves if they can."""
        return task if self.seed is None else replace(task, seed=self.seed, build=self.build)


def seed_of(function: Callable[..., nn.Module], module: nn.Module, key: Key) -> tuple[Key | None, ModelOfKey | None]:
    """(seed, build) of a Task; None twice, where the function takes no key and the model itself travels.

    Args:
        function: made the module.
        module: the initial model, which nobody may change.
        key: the run's.
    """
    return (key, ModelOfKey(function, key, module)) if takes_key(function) else (None, None)


def takes_key(function: Callable[..., Any]) -> bool:
    """Whether a function has one argument without a default, which is then a key.

    >>> takes_key(lambda key: nn.Linear(2, 1)), takes_key(lambda: nn.Linear(2, 1)), takes_key(nn.Identity)
    (True, False, False)
    """
    try:
        arguments = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some functions of C have none
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(x.default is x.empty and x.kind in positional for x in arguments) == 1


def made(who: str, function: Callable[..., Any], key: Key) -> nn.Module:
    """What the user's function makes, with the global generators seeded from the key, too.

    Args:
        who: what errors call it.
        function: of a key, or of nothing.
        key: of the model.

    Raises:
        LocalError: it raises, returns no module, or makes other weights, or the same module, when it gets the same key
            again.
    """
    if not takes_key(function):
        return _module(who, function, key)
    who = f"{who}, called with a fb.Key"
    module, again = (_module(who, lambda: function(key), key) for _ in range(2))
    name = next((name for name, x in _tensors(module).items() if not _same(x, _tensors(again).get(name))), None)
    if name is not None:
        raise LocalError(
            f"{who}: {name} has other values when it is called again, so clients could not make the same model; draw "
            "from the key alone, or leave out the argument, and the model itself travels"
        )
    shared = next(
        (name for name, x in _tensors(module).items() if x.requires_grad and x is _tensors(again).get(name)), None
    )
    if shared is not None:
        raise LocalError(
            f"{who}: {shared} is the same tensor when it is called again, so training would change what the key gives; "
            "make a new module in every call, or leave out the argument, and the model itself travels"
        )
    return module


def called(who: str, function: Callable[[], Any]) -> Any:
    """What the user's function gives; LocalError names it when it raises."""
    try:
        return function()
    except FewbitsError as error:
        raise LocalError(f"{who}: {error}") from error
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        raise LocalError(f"{who}: it fails: {type(error).__name__}: {words(error)}") from error


def _module(who: str, function: Callable[[], Any], key: Key) -> nn.Module:
    with seeded(key):
        found = called(who, function)
    if not isinstance(found, nn.Module):
        raise LocalError(f"{who}: it must return a torch module; got {described(found)}")
    return found


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict([*module.named_parameters(), *module.named_buffers()])


def _same(one: Tensor, other: Tensor | None) -> bool:
    """Whether they are equal, or have no values to compare."""
    if other is None or is_lazy(one) or one.is_meta:
        return other is not None
    return torch.equal(one.nan_to_num(), other.nan_to_num())
