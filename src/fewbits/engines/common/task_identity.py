"""What makes a task this task, as digests: a run is continued with the same data, test set, loss and metric alone."""

from __future__ import annotations

import dis
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from types import CodeType, FunctionType, MethodType
from typing import Any, cast

import numpy as np
import torch
from isal import isal_zlib
from torch import Tensor, nn

from fewbits.engines.common.task import Local, Task
from fewbits.factor.coordinates import coordinates
from fewbits.learn.local import LocalSGD
from fewbits.wire.identity import canonical

CHUNK = 64 * 2**20  # bytes
DEEPEST = 6  # values within values that are looked at; nobody nests a loss deeper


def task_settings(task: Task) -> dict[str, str]:
    """Digests of what a task is made of, by name; the initial model is not among them."""
    found = {
        "data": _digest(_data(task)),
        "test set": "none" if task.test is None else _digest(_test(task)),
        "loss": "cross-entropy" if task.loss is None else f"{_name(task.loss)} {_digest(_value(task.loss))}",
        "metric": "none" if task.metric is None else f"{_name(task.metric)} {_digest(_value(task.metric))}",
    }
    if task.holdout:
        found["holdout"] = _digest(_arrays(task.holdout))
    elif task.shares is not None and task.shares.share:
        found["holdout"] = f"{task.shares.share:g} of each client's examples"
    return found


def local_settings(local: Local) -> str:
    """Identity of the local training: fields and values, and what functions compute with."""
    if isinstance(local, LocalSGD):
        return canonical(local)
    return f"{type(local).__name__} {_digest(_value(vars(local)))}"


def _data(task: Task) -> list[str]:
    """Of data in other forms than tensors, kinds and sizes alone: reading all of them would take too long."""
    if task.shares is not None:
        return task.shares.summary()
    return [*_array(task.x), *_array(task.y), *_arrays(task.parts)]


def _test(task: Task) -> list[str]:
    if task.test_x is None:
        return [] if task.test is None else task.test.summary()
    return [*_array(task.test_x), *_array(task.test_y)]


def model_digest(model: nn.Module, public: Tensor) -> str:
    """Digest of a model at the start: all that travels, and the parameters that no training changes.

    Inside a subspace the parameters that s gives stand for s, whatever theta0 is.

    public: (n,) all that travels.
    """
    inside = coordinates(model)
    if inside is not None:
        with torch.no_grad():
            public = torch.cat([*(x.reshape(-1) for x in inside.theta()), public[inside.numel :]])
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    pieces = [*_array(public), *(piece for name in frozen for piece in (name, *_array(frozen[name].detach())))]
    return f"{public.numel()} numbers, digest {_digest(pieces)}"


def _digest(pieces: Sequence[str] | Iterator[str]) -> str:
    found = hashlib.blake2b(digest_size=8)
    for piece in pieces:
        found.update(piece.encode("utf-8", "surrogatepass") + b"\0")
    return found.hexdigest()


def _arrays(rows: Sequence[np.ndarray]) -> list[str]:
    return [piece for part in rows for piece in _array(part)]


def _array(x: Tensor | np.ndarray | None) -> list[str]:
    """Shape, type and checksums of an array; a change by accident changes them."""
    if x is None:
        return ["none"]
    array = x.detach().cpu().contiguous() if isinstance(x, Tensor) else torch.from_numpy(np.ascontiguousarray(x))
    data = memoryview(cast("Any", array.reshape(-1).view(torch.uint8).numpy())) if array.numel() else memoryview(b"")
    sums = [f"{isal_zlib.crc32(data[at : at + CHUNK]):08x}" for at in range(0, len(data), CHUNK)]
    return [f"{tuple(array.shape)} {array.dtype}", *sums]


def _name(value: object) -> str:
    return getattr(value, "__name__", type(value).__name__)


def _value(value: object, depth: int = DEEPEST) -> list[str]:
    """What a loss computes with: its code, its parts, and the values that it closes over.

    What only has an address, such as an open file, is told apart by its type alone.
    """
    if depth == 0:
        return [type(value).__name__]
    if isinstance(value, Tensor | np.ndarray):
        return _array(value)
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype | torch.device):
        return [repr(value)]
    if isinstance(value, nn.Module):
        return _module(value, depth)
    if isinstance(value, functools.partial):
        return [*_value(value.func, depth - 1), *_mapping(value.keywords, depth), *_sequence(value.args, depth)]
    if isinstance(value, MethodType):
        return [*_value(value.__func__, depth - 1), *_value(value.__self__, depth - 1)]
    if isinstance(value, FunctionType):
        return _function(value, depth)
    if isinstance(value, Mapping):
        return _mapping(cast("Mapping[object, object]", value), depth)
    if isinstance(value, Sequence | set | frozenset):
        ordered = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        return _sequence(list(cast("Sequence[object]", ordered)), depth)
    if isinstance(value, type) or not hasattr(value, "__dict__"):
        return [getattr(value, "__qualname__", type(value).__qualname__)]
    return [type(value).__qualname__, *_mapping(vars(value), depth), *_code_of(value)]


def _module(module: nn.Module, depth: int) -> list[str]:
    """Its tensors, code and plain attributes, such as `label_smoothing`, which no state_dict has; and its parts'."""
    attributes = {
        f"{path}.{name}": x
        for path, part in module.named_modules()
        for name, x in {"type": type(part).__qualname__, **vars(part)}.items()
        if not name.startswith("_") and name != "training"
    }
    return [*_mapping(module.state_dict(), depth), *_mapping(attributes, depth), *_code_of(module)]


def _code_of(value: object) -> list[str]:
    """The code that a call of the value runs, where it is Python's."""
    methods = (getattr(type(value), name, None) for name in ("forward", "__call__"))
    return [piece for m in methods if isinstance(m, FunctionType) for piece in _code(m.__code__)]


def _function(function: FunctionType, depth: int) -> list[str]:
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            cells.append(None)
    defaults = [*(function.__defaults__ or ()), *sorted((function.__kwdefaults__ or {}).items())]
    values = _sequence([*defaults, *cells], depth)
    return [function.__qualname__, *_code(function.__code__), *values, *_mapping(_read_globals(function), depth)]


def _read_globals(function: FunctionType) -> Mapping[str, object]:
    """The numbers, texts and tensors of its file that a function names, and the code of functions, and what they name.

    Each name is looked at once. What a function itself replaces, such as a counter, is none of it.
    """
    there, found, waiting = function.__globals__, dict[str, object](), [function.__code__]
    while waiting:
        code = waiting.pop()
        replaced = {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_GLOBAL"}
        for name in code.co_names:
            value = there.get(name)
            if name in found or name in replaced:
                continue
            if isinstance(value, FunctionType) and value.__globals__ is there:
                found[name] = " ".join(_code(value.__code__))
                waiting.append(value.__code__)
            elif isinstance(value, bool | int | float | str | Tensor | np.ndarray):
                found[name] = value
    return found


def _code(code: CodeType) -> list[str]:
    constants = [piece for c in code.co_consts for piece in (_code(c) if isinstance(c, CodeType) else [repr(c)])]
    return [code.co_code.hex(), *code.co_names, *constants]


def _mapping(found: Mapping[Any, Any], depth: int) -> list[str]:
    pairs = sorted(found.items(), key=lambda pair: str(pair[0]))
    return [piece for name, value in pairs for piece in (str(name), *_value(value, depth - 1))]


def _sequence(values: Sequence[object], depth: int) -> list[str]:
    return [piece for value in values for piece in (str(len(values)), *_value(value, depth - 1))]
