"""ModuleSnapshot: what a module is beside its numbers, to be put back after code of others has run on it."""

from __future__ import annotations

import copy
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import partial
from itertools import chain
from operator import is_, methodcaller
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import ref

import numpy as np
import torch
from torch import Tensor, nn

from fewbits.learn.flat_model import MARK, FlatModel
from fewbits.learn.private_generators import GENERATORS
from fewbits.learn.seeding import TENSOR_HOOKS

VALUES = methodcaller("values")
PLAIN = (type(None), bool, int, float, complex, str, bytes, Enum, np.generic, np.dtype)
# Nothing inside of these is put back; `unreachable` says which generators there are.
ATOMIC = (*PLAIN, type, FunctionType, BuiltinFunctionType, ModuleType, ref, *GENERATORS)
CONTAINERS = (OrderedDict, dict, list, set, deque)
LIBRARIES = "torch", "fewbits"  # their objects know by themselves what stays in them
TENSORS = ("_parameters", "_buffers", "_non_persistent_buffers_set")  # of which LocalTensors speaks
UNSAID = (*TENSORS, "training", MARK)


class ModuleSnapshot:
    """Layers, classes, hooks, flags and plain attributes of a model's module, as they were.

    Lists, dicts, sets and objects are followed to what they hold, and get it back in place. An object that says by
    itself how it is copied gives way to a copy. Functions, classes, and objects of torch and of this package count by
    identity. TorchScript modules, and what functions close over, are not looked into.

    Args:
        model: before code of others has run on it.

    Example:
        >>> model = FlatModel(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)))
        >>> snapshot = ModuleSnapshot(model)
        >>> model.module[1].p, model.foreign = 0.9, True
        >>> snapshot.look()
        ['1.p']
        >>> snapshot.restore()
        >>> model.module[1].p
        0.1
    """

    def __init__(self, model: FlatModel) -> None:
        self._model = model
        self._holders: list[_Holder] = []
        self._classes: list[tuple[str, nn.Module, type]] = []
        self._values: list[tuple[Any, Any]] = []  # tensors and arrays inside of attributes, and copies of them
        opaque: dict[int, Any] = {}  # objects that nobody can look into, by id
        module = model.module
        tensors = dict([*module.named_parameters(), *module.named_buffers()])
        for name, part in module.named_modules():
            tensors |= {_joined(name, last): x for last, x in vars(part).items() if isinstance(x, Tensor)}
        self._met: dict[int, Any] = {id(x): x for x in tensors.values()}  # what stays itself in a copy of an object
        self._hooks = [_TensorHooks(f"{name} (hooks)", x, last) for name, x in tensors.items() for last in TENSOR_HOOKS]
        for name, x in module.named_parameters():
            self._holders.append(_ObjectAttributes(f"{name} (attributes)", vars(x)))
        self._walk(module, "", opaque)
        self._dicts = [holder.container for holder in self._holders if isinstance(holder.container, dict)]
        self._lists = [holder.container for holder in self._holders if not isinstance(holder.container, dict)]
        self._first = self._everything()
        self._opaque = {i: (x, copy.deepcopy(x, dict(self._met))) for i, x in opaque.items()}

    def _walk(self, x: Any, name: str, opaque: dict[int, Any]) -> None:
        """Note what is reachable from a value; `name` is a module's, or that of the attribute that leads there."""
        if isinstance(x, (*ATOMIC, torch.jit.ScriptModule)) or id(x) in self._met:
            return
        self._met[id(x)] = x
        if isinstance(x, Tensor | np.ndarray):
            if not isinstance(x, Tensor) or x.grad_fn is None:
                self._values.append((x, x.detach().clone() if isinstance(x, Tensor) else x.copy()))
        elif isinstance(x, nn.Module):
            self._classes.append((name, x, type(x)))
            self._holders.append(_ModuleAttributes(name, vars(x)))
            for last, value in vars(x).items():
                if last == "_modules":
                    self._holders.append(_Holder(_joined(name, last), value))
                    for child, part in value.items():
                        self._walk(part, _joined(name, child), opaque)
                else:
                    self._walk(value, _joined(name, last), opaque)
        elif type(x).__module__.partition(".")[0] in LIBRARIES:
            return
        elif (inner := _inside(x)) is not None:
            if isinstance(x, CONTAINERS):
                self._holders.append(_Holder(name, x))
            elif hasattr(x, "__dict__"):
                self._holders.append(_ObjectAttributes(name, vars(x)))
            for value in inner:
                self._walk(value, name, opaque)
        else:
            del self._met[id(x)]
            opaque[id(x)] = x

    def restore(self) -> None:
        """Put back what was changed, if code of others has run; the numbers in flat memory stay."""
        if not self._model.foreign:
            return
        self._model.foreign = False
        for _, part, kind in self._classes:
            if type(part) is not kind:
                object.__setattr__(part, "__class__", kind)
        if self._opaque or not self._is_same():
            self._model.undisturbed = False
            numbers = self._model.whole.clone()
            self._put_back()
            self._model.attach()
            self._model.whole.copy_(numbers)
        for hooks in self._hooks:
            hooks.put_back()
        for x, first in self._values:
            _set(x, first)

    def _everything(self) -> list[Any]:
        """What all containers hold, without a call of Python for each."""
        return list(chain(*self._dicts, *map(VALUES, self._dicts), *self._lists))

    def _is_same(self) -> bool:
        return _identical(self._everything(), self._first) or all(
            _identical(holder.now(), holder.first) for holder in self._holders
        )

    def _put_back(self) -> None:
        memo = dict(self._met)
        new = {i: (copy.deepcopy(first, memo), first) for i, (_, first) in self._opaque.items()}
        for holder in self._holders:
            if new:
                holder.first = [new[id(x)][0] if id(x) in new else x for x in holder.first]
            if not _identical(holder.now(), holder.first):
                holder.put_back()
        if new:
            self._opaque = {id(x): (x, first) for x, first in new.values()}
            self._first = self._everything()

    def look(self) -> list[str]:
        """Names of attributes with other values, but for caches; without any, `restore` may have nothing to do."""
        classes = {_joined(name, "__class__") for name, part, kind in self._classes if type(part) is not kind}
        others = classes | {name for hooks in self._hooks for name in hooks.changed()}
        if not self._is_same():
            return sorted(others | {name for holder in self._holders for name in holder.changed()})
        self._model.foreign = bool(others or self._values or self._opaque)
        return sorted(others)


class _Holder:
    """A list, a set or a dict."""

    def __init__(self, name: str, container: Any) -> None:
        self.name, self.container = name, container
        self.first = self.now()  # of a dict its keys, then its values

    def now(self) -> list[Any]:
        return [*self.container, *self.container.values()] if isinstance(self.container, dict) else list(self.container)

    def put_back(self) -> None:
        """Hold what it held first. By methods of Python's own, because a class may refuse changes."""
        kind: Any = next(kind for kind in CONTAINERS if isinstance(self.container, kind))
        kind.clear(self.container)
        add = kind.update if hasattr(kind, "update") else kind.extend
        add(self.container, _pairs(self.first) if isinstance(self.container, dict) else self.first)

    def changed(self) -> Iterable[str]:
        """Its name, if it holds other values."""
        if self.name.rpartition(".")[2] in TENSORS:
            return ()
        kind = set if isinstance(self.container, set) else list
        return () if _same(kind(self.now()), kind(self.first)) else (self.name,)


class _ObjectAttributes(_Holder):
    """The attributes of an object."""

    def changed(self) -> Iterable[str]:
        return (self.name,) if self._others() else ()

    def _others(self) -> list[str]:
        """Those with another value. What was None, or is no function and was not there, is taken for a cache."""
        first = _pairs(self.first)
        found = [last for last, x in first.items() if x is not None and not _same(self.container.get(last), x)]
        return found + [last for last, x in self.container.items() if last not in first and callable(x)]


class _ModuleAttributes(_ObjectAttributes):
    """The attributes of a module but for tensors, which LocalTensors puts back, and the mark of a FlatModel."""

    def __init__(self, name: str, container: dict[str, Any]) -> None:
        self._tensors = {last for last, x in container.items() if isinstance(x, Tensor)}
        super().__init__(name, container)

    def now(self) -> list[Any]:
        found = {last: x for last, x in self.container.items() if not isinstance(x, Tensor) and last != MARK}
        return [*found, *found.values()]

    def put_back(self) -> None:
        stays = {last: x for last, x in self.container.items() if last in self._tensors or last == MARK}
        self.container.clear()
        self.container.update(_pairs(self.first) | stays)

    def changed(self) -> Iterable[str]:
        return [_joined(self.name, last) for last in self._others() if last not in UNSAID]


class _TensorHooks:
    """The functions that a tensor calls in a backward pass, of one kind."""

    def __init__(self, name: str, x: Tensor, last: str) -> None:
        self._name, self._x, self._last = name, x, last
        self._table = getattr(x, last, None)
        self._first = dict(self._table or {})

    def changed(self) -> Iterable[str]:
        return () if dict(getattr(self._x, self._last, None) or {}) == self._first else (self._name,)

    def put_back(self) -> None:
        """Call the functions of before. In place, because torch may go on calling those of a table that is replaced."""
        now = getattr(self._x, self._last, None)
        table = self._table if now is None else now
        if table is not None and dict(table) != self._first:
            table.clear()
            table.update(self._first)
        if now is not table:
            setattr(self._x, self._last, table)


def _set(x: Any, first: Any) -> None:
    """Give a tensor or an array the values of its copy."""
    if isinstance(x, Tensor) and (x.shape != first.shape or x.dtype != first.dtype):
        x.data = first.clone()
    elif isinstance(x, Tensor):
        x.detach().copy_(first)
    elif x.flags.writeable:
        np.copyto(x, first)


def _inside(x: Any) -> Iterator[Any] | None:
    """What a value holds; None: it says by itself how it is copied, or has what nobody can look into."""
    if isinstance(x, dict):
        return chain(x, x.values())
    if isinstance(x, list | tuple | set | frozenset | deque):
        return iter(list(x))
    if isinstance(x, MethodType):
        return iter((x.__self__,))
    if isinstance(x, partial):
        return iter((x.func, x.args, x.keywords))
    kind = type(x)
    default = kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ is object.__reduce__
    slots = any(getattr(each, "__slots__", ()) for each in kind.__mro__)
    if default and not hasattr(kind, "__deepcopy__") and hasattr(x, "__dict__") and not slots:
        return iter(list(vars(x).values()))
    return None


def _same(x: Any, y: Any) -> bool:
    """The same object, or equal plain values, also in lists, tuples and dicts."""
    if x is y:
        return True
    if type(x) is not type(y):
        return False
    if isinstance(x, list | tuple):
        return len(x) == len(y) and all(map(_same, x, y))
    if isinstance(x, dict):
        return x.keys() == y.keys() and all(_same(x[key], y[key]) for key in x)
    return isinstance(x, (*PLAIN, set)) and bool(x == y)


def _identical(now: list[Any], first: list[Any]) -> bool:
    return len(now) == len(first) and all(map(is_, now, first))


def _pairs(first: list[Any]) -> dict[Any, Any]:
    half = len(first) // 2
    return dict(zip(first[:half], first[half:], strict=True))


def _joined(name: str, last: str) -> str:
    return f"{name}.{last}" if name else last
