"""Compose a weight that several modules share once per forward of the model; drop it afterwards."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class _ForwardCache:
    """The weights that one forward has composed so far."""

    depth: int = 0  # nested forwards
    composed: dict[tuple[int, bool], tuple[Tensor, Tensor]] = field(default_factory=dict)


# A context variable, not a module attribute: copies of the model and other threads must not see the cache.
_cache: ContextVar[_ForwardCache | None] = ContextVar("fewbits.factor.compose_once", default=None)


def once(owner: nn.Module, witness: Tensor, compose: Callable[[], Tensor]) -> Tensor:
    """Return `compose()`, or its result from earlier in the same forward with the same factors.

    A result made without gradients is never returned where gradients are on.

    Args:
        owner: the module that composes the weight.
        witness: one of its factors; another tensor in its place makes the cached result invalid.
        compose: the function that composes the weight.
    """
    if torch.compiler.is_compiling():  # a cache would break the graph; the compiler merges equal expressions
        return compose()
    cache = _cache.get()
    if cache is None:
        return compose()
    key = (id(owner), torch.is_grad_enabled())
    found = cache.composed.get(key)
    if found is None or found[0] is not witness:  # functional_call replaces the factors
        found = cache.composed[key] = witness, compose()
    return found[1]


def attach(model: nn.Module) -> None:
    """Cache the model's composed weights during each forward; calling it again changes nothing."""
    if begin not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(begin)
        model.register_forward_hook(end, always_call=True)  # the cache must not outlive a failed forward


def detach(model: nn.Module) -> None:
    """Undo `attach`."""
    for hooks in (model._forward_pre_hooks, model._forward_hooks):
        for number in [n for n, hook in hooks.items() if hook in (begin, end)]:
            del hooks[number]
            model._forward_hooks_always_called.pop(number, None)


def begin(module: nn.Module, args: tuple[Any, ...]) -> None:
    """Open the cache; a forward pre-hook."""
    if torch.compiler.is_compiling():
        return
    cache = _cache.get()
    if cache is None:
        _cache.set(cache := _ForwardCache())
    cache.depth += 1


def end(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """Drop the cache when the outermost forward ends; a forward hook."""
    if torch.compiler.is_compiling():
        return
    cache = _cache.get()
    if cache is not None:
        cache.depth -= 1
        if cache.depth == 0:
            _cache.set(None)
