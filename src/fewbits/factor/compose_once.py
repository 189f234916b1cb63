"""A weight that several modules share is composed once in every forward of the model, and let go afterwards."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class _Held:
    """What one forward has composed so far."""

    depth: int = 0  # forwards inside one another
    composed: dict[tuple[int, bool], tuple[Tensor, Tensor]] = field(default_factory=dict)


# Of the running thread, and on no module: a copy of a model, or a second thread, sees nothing of it.
_held: ContextVar[_Held | None] = ContextVar("fewbits.factor.compose_once", default=None)


def once(owner: nn.Module, witness: Tensor, compose: Callable[[], Tensor]) -> Tensor:
    """`compose()`, or what it gave earlier in the same forward from the same factors, of which `witness` is one.

    A result made without gradients is not used where gradients are on.
    """
    if torch.compiler.is_compiling():  # would break the graph; the compiler sees equal expressions
        return compose()
    held = _held.get()
    if held is None:
        return compose()
    key = (id(owner), torch.is_grad_enabled())
    found = held.composed.get(key)
    if found is None or found[0] is not witness:  # functional_call may put others in their place
        found = held.composed[key] = witness, compose()
    return found[1]


def attach(model: nn.Module) -> None:
    """Let the model hold its composed weights during each forward; once is enough."""
    if begin not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(begin)
        model.register_forward_hook(end, always_call=True)  # after an exception, too


def detach(model: nn.Module) -> None:
    """Undo `attach`."""
    for hooks in (model._forward_pre_hooks, model._forward_hooks):
        for number in [n for n, hook in hooks.items() if hook in (begin, end)]:
            del hooks[number]
            model._forward_hooks_always_called.pop(number, None)


def begin(module: nn.Module, args: tuple[Any, ...]) -> None:
    """Forward pre-hook."""
    if torch.compiler.is_compiling():
        return
    held = _held.get()
    if held is None:
        _held.set(held := _Held())
    held.depth += 1


def end(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """Forward hook."""
    if torch.compiler.is_compiling():
        return
    held = _held.get()
    if held is not None:
        held.depth -= 1
        if held.depth == 0:
            _held.set(None)
