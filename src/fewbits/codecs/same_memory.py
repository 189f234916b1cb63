"""same_memory: whether two structures of tensors lie in the same memory, so that a change of one shows in the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.lib.array_utils import byte_bounds
from torch import Tensor

_ARRAYS = (np.ndarray, np.memmap)  # other kinds may hold more, such as a mask
_PLAIN = (bool, int, float, complex, str, bytes, np.generic, type(None))  # hold no memory that others write to


def same_memory(a: Any, b: Any) -> bool:
    """Whether any tensor or array of `a` shares memory with one of `b`; True as well for what cannot be looked into.

    Args:
        a: nested tuples, lists, dicts and dataclasses of tensors, arrays and plain values.
        b: another such structure.

    Example:
        >>> import torch
        >>> x = torch.zeros(4)
        >>> same_memory((x[1:], 1), {"x": x[:2]}), same_memory((x[2:], None), [x[:2]]), same_memory(object(), x)
        (True, False, True)
    """
    try:
        first, second = sorted(_ranges(a, [])), sorted(_ranges(b, []))
    except _UnknownError:
        return True
    stops: list[int] = []  # largest end so far: ranges of one structure may lie in each other
    for _, stop in second:
        stops.append(max(stop, stops[-1] if stops else 0))
    starts = [start for start, _ in second]
    for start, stop in first:
        before = bisect_right(starts, stop - 1)  # ranges of b that begin before this one ends
        if before and stops[before - 1] > start:
            return True
    return False


def memory_of(x: Tensor) -> tuple[int, int]:
    """The addresses of the first and after the last byte of a strided tensor with numbers in it.

    >>> x = torch.zeros(6)
    >>> memory_of(x[4:])[0] - memory_of(x)[0], memory_of(x[::2])[1] - memory_of(x)[0]
    (16, 20)
    """
    reach = x.numel() - 1 if x.is_contiguous() else _reach(x)
    return x.data_ptr(), x.data_ptr() + (reach + 1) * x.element_size()


class _UnknownError(Exception):
    """A kind of object that may hold memory unseen."""


def _ranges(x: Any, found: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Append (address, end) of every tensor and array in a structure."""
    if isinstance(x, Tensor):
        if x.layout is not torch.strided:
            raise _UnknownError  # sparse ones have several memories
        if x.numel():
            found.append(memory_of(x))
    elif isinstance(x, _PLAIN):
        pass
    elif isinstance(x, tuple | list):
        for part in x:
            _ranges(part, found)
    elif isinstance(x, np.ndarray):
        if type(x) not in _ARRAYS or x.dtype.hasobject:
            raise _UnknownError
        if x.size:
            found.append(byte_bounds(x))
    elif isinstance(x, Mapping):
        for name, part in x.items():
            _ranges(name, found)
            _ranges(part, found)
    elif names := _names(type(x)):
        for name in names:
            _ranges(getattr(x, name), found)
    elif not is_dataclass(x) or isinstance(x, type):
        raise _UnknownError
    return found


def _reach(x: Tensor) -> int:
    """Entries between the first and the last one in memory."""
    return sum((n - 1) * abs(step) for n, step in zip(x.shape, x.stride(), strict=True))


@cache
def _names(cls: type) -> tuple[str, ...]:
    """The fields of a dataclass; of other classes none."""
    return tuple(field.name for field in fields(cls)) if is_dataclass(cls) else ()
