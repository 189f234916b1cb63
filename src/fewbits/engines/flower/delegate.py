"""Delegate: a strategy around another one, whose attributes are reached through it and whose own `start` runs.

`start` of the inner strategy calls `self.configure_train` and so on. While it runs, these are the wrapper's.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flwr.app import ArrayRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

STEPS = ("configure_train", "aggregate_train", "configure_evaluate", "aggregate_evaluate", "summary")


class Delegate(Strategy):
    """Attributes that this class or `attributes` does not name belong to the inner strategy, to read and to write."""

    attributes: frozenset[str] = frozenset({"inner", "_steps"})
    inner: Strategy
    _steps: dict[str, Any]  # the inner strategy's, while its `start` runs

    def __getattr__(self, name: str) -> Any:
        if name in type(self).attributes:
            raise AttributeError(f"{type(self).__name__} has no {name} yet")
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in type(self).attributes or hasattr(type(self), name):
            object.__setattr__(self, name, value)
        else:
            setattr(self.inner, name, value)

    def __delattr__(self, name: str) -> None:
        if name in vars(self):
            object.__delattr__(self, name)
        else:
            delattr(self.inner, name)

    def inside(self, step: str, *args: Any) -> Any:
        """Call a step of the inner strategy."""
        return (self._steps.get(step) or getattr(self.inner, step))(*args)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put this strategy's steps in place of the inner one's."""
        before = {name: vars(self.inner)[name] for name in STEPS if name in vars(self.inner)}
        self._steps = {name: getattr(self.inner, name) for name in STEPS}
        try:
            for name in STEPS:
                setattr(self.inner, name, _caller(self, name))
            yield
        finally:
            self._steps = {}
            for name in STEPS:
                delattr(self.inner, name)
            for name, step in before.items():
                setattr(self.inner, name, step)

    def start_inside(self, grid: Grid, initial_arrays: ArrayRecord, **more: Any) -> Any:
        """Call the inner strategy's `start` with those arguments that it takes."""
        taken = inspect.signature(self.inner.start).parameters
        anything = any(p.kind is p.VAR_KEYWORD for p in taken.values())
        with self.in_place():
            return self.inner.start(grid, initial_arrays, **{n: x for n, x in more.items() if anything or n in taken})


def _caller(outer: Strategy, name: str) -> Any:
    """Looked up at each call, so that a step that was replaced on the wrapper is the one that runs."""

    def call(*args: Any, **more: Any) -> Any:
        return getattr(outer, name)(*args, **more)

    return call
