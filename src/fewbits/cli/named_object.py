"""What a text such as pkg.module:name stands for: an object of the user's, imported as `python -m` would."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from fewbits.choices import nearest, unknown
from fewbits.engines.common import initial_model
from fewbits.engines.common.initial_model import called
from fewbits.errors import LocalError, words
from fewbits.learn.outputs import described
from fewbits.rng import Key


def is_named_object(text: str | None) -> bool:
    """Whether the text has the form module:name, which no listed name has.

    >>> is_named_object("task:clients"), is_named_object("digits"), is_named_object(None)
    (True, False, False)
    """
    return text is not None and ":" in text


def named_object(option: str, text: str) -> Any:
    """The object of that name; modules of the current directory come first.

    Args:
        option: what errors call it, such as "--data".
        text: module:name, both with dots where need be.

    Raises:
        LocalError: there is no such module or name, or importing it fails.

    >>> named_object("--loss", "torch.nn.functional:mse_loss").__name__
    'mse_loss'
    """
    module, _, path = text.partition(":")
    if not module or not all(part.isidentifier() for part in (*path.split("."), *module.split("."))):
        raise LocalError(f"{option} {text}: expected package.module:name, such as task:make")
    found: Any = _module(option, text, module)
    for name in path.split("."):
        if not hasattr(found, name):
            near = nearest(name, (other for other in vars(found) if not other.startswith("_")))
            hint = f"; did you mean {near!r}?" if near else ""
            raise LocalError(f"{option} {text}: {_place(found, module)} has no {name!r}{hint}")
        found = getattr(found, name)
    return found


def named_function(
    option: str, text: str, of: str, listed: Mapping[str, Callable[..., Any]] = {}
) -> Callable[..., Any]:
    """The function of that name; a class of criteria, such as torch.nn:MSELoss, gives one of them.

    Args:
        option: what errors call it.
        text: module:name.
        of: what the function takes, in words.
        listed: functions by short names.

    Raises:
        LocalError: as for `named_object`; or it cannot be called.
    """
    if text in listed:
        return listed[text]
    if listed and not is_named_object(text):
        raise LocalError(f"{option} {text}: {unknown('name', text, listed, ', or give module:name')}")
    found = named_object(option, text)
    if isinstance(found, type) and issubclass(found, nn.Module):
        return made(option, text, found)
    if not callable(found):
        raise LocalError(f"{option} {text}: it must be a function of {of}; got {described(found)}")
    return found


def made(option: str, text: str, function: Callable[[], Any]) -> Any:
    """What the user's function gives; LocalError names it when it raises."""
    return called(f"{option} {text}", function)


def model_function(text: str) -> Callable[..., Any]:
    """The function that makes a model.

    Raises:
        LocalError: as for `named_object`; or it cannot be called.
    """
    function = named_object("--model", text)
    if not callable(function):
        raise LocalError(f"--model {text}: it must be a function that makes a torch module; got {described(function)}")
    return function


def named_model(text: str, key: Key) -> nn.Module:
    """What the function of a model gives; it gets the key, if it takes one, and the global generators follow the key.

    Raises:
        LocalError: as for `model_function`; the function raises, or returns no module.
    """
    return initial_model.made(f"--model {text}", model_function(text), key)


def _module(option: str, text: str, name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()  # the file may be younger than the last look
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # the user's own code may raise anything, and end the program
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise LocalError(
                f"{option} {text}: there is no module {error.name!r} in {here}, and none is installed"
            ) from None
        raise LocalError(f"{option} {text}: importing {name} fails: {type(error).__name__}: {words(error)}") from error


def _place(found: object, module: str) -> str:
    return module if isinstance(found, ModuleType) else getattr(found, "__name__", type(found).__name__)
