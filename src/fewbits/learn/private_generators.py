"""Find generators that a model or a loss has to itself: no key reaches them, so the run cannot be repeated."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, np.random.BitGenerator, random.Random)
# The generators behind torch.rand, np.random.rand and random.random, which a key seeds.
GLOBAL = (torch.default_generator, np.random.random.__self__, random.random.__self__)
DEEPEST = 4  # steps from a module or a loss to a generator: attribute, list, function, closure
MOST = 10_000  # objects that are looked at
OURS = ("fewbits", "torch", "numpy", "random")  # packages whose functions are not looked into


def unreachable(model: nn.Module, loss: Callable[..., Any] | None = None) -> list[str]:
    """A sentence for a run's notes when model or loss hold generators; [] when none was found.

    What is looked at: attributes of all modules and of the loss, their hooks, lists and dicts in them, and for
    functions their closures, defaults and globals by name. A generator that is made anew in every call, or one behind
    a library's object, is not found.
    """
    found = {name for part, root in _roots(model, loss) for name in _search(root, part, DEEPEST, set())}
    if not found:
        return []
    return [
        f"{', '.join(sorted(found))}: a random generator of model or loss, which the run's seed does not reach. "
        "This run cannot be repeated, and its result depends on the number of processes. Draw from the global "
        "generator of torch, NumPy or Python instead"
    ]


def _roots(model: nn.Module, loss: Callable[..., Any] | None) -> Iterator[tuple[str, object]]:
    for name, part in model.named_modules():
        yield f"model.{name}" if name else "model", part
    if loss is not None:
        yield "loss", loss


def _search(value: object, name: str, depth: int, seen: set[int]) -> Iterator[str]:
    if isinstance(value, GENERATORS):
        if not any(value is known for known in GLOBAL):
            yield name
        return
    if depth == 0 or id(value) in seen or len(seen) >= MOST:
        return
    seen.add(id(value))
    for label, inner in _inside(value):
        yield from _search(inner, name + label, depth - 1, seen)


def _inside(value: object) -> Iterator[tuple[str, object]]:
    """(label, part) of what a value refers to."""
    if isinstance(value, Mapping):
        # Hooks are numbered through the whole process: such a number says nothing.
        yield from ((f"[{key!r}]" if isinstance(key, str) else "", x) for key, x in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"[{i}]", x) for i, x in enumerate(value))
    elif isinstance(value, partial):
        yield from (("", x) for x in (value.func, *value.args, *value.keywords.values()))
    elif isinstance(value, MethodType):
        yield from (("", x) for x in (value.__func__, value.__self__))
    elif isinstance(value, FunctionType):
        yield from _of_function(value)
    elif not isinstance(value, type | torch.Tensor | CodeType) and hasattr(value, "__dict__"):
        yield from _of_object(value)


def _of_object(value: object) -> Iterator[tuple[str, object]]:
    for name, x in vars(value).items():
        if isinstance(value, nn.Module) and name in ("_modules", "_parameters", "_buffers"):
            continue  # submodules are roots of their own
        yield f".{name}", x
    for name in ("forward", "__call__"):
        method = getattr(type(value), name, None)
        if isinstance(method, FunctionType):
            yield f".{name}", method


def _of_function(function: FunctionType) -> Iterator[tuple[str, object]]:
    if (function.__module__ or "").partition(".")[0] in OURS:
        return
    for cell in function.__closure__ or ():
        try:
            yield "", cell.cell_contents
        except ValueError:  # a variable that is not set yet
            continue
    yield from (("", x) for x in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()))
    for name in function.__code__.co_names:
        found = function.__globals__.get(name)
        if not isinstance(found, ModuleType | type):
            yield f" ({name})", found
