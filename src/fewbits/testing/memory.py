"""takes_memory_for: how much memory a call takes, in NumPy, Python and torch."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

from torch import Tensor, zeros
from torch.utils._python_dispatch import TorchDispatchMode

from fewbits.testing.law import demand

ALWAYS = 4_000_000  # bytes, for however few numbers
EACH = 40  # bytes a number


def takes_memory_for(numbers: int, call: Callable[[], None]) -> None:
    """Demand that a call takes memory of the order of so many numbers.

    A first call may import modules, so one that takes too much is repeated.
    """
    limit = max(ALWAYS, EACH * numbers)
    if (found := _peak(call)) >= limit:
        found = _peak(call)
    demand(found < limit, "Too much memory was taken", numbers=numbers, limit=limit, bytes=found)


def _peak(call: Callable[[], None]) -> int:
    """The larger of NumPy's and Python's peak and torch's largest tensor, which tracemalloc does not see, in bytes."""
    with _Largest() as largest:
        zeros(1)  # the first operation in a mode imports much of torch, ten times as slowly when that is traced
        tracemalloc.start()
        try:
            call()
            return max(tracemalloc.get_traced_memory()[1], largest.bytes)
        finally:
            tracemalloc.stop()


class _Largest(TorchDispatchMode):
    """Notes the largest storage of the tensors that operations return."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else (result,):
            if isinstance(part, Tensor):
                self.bytes = max(self.bytes, part.untyped_storage().nbytes())
        return result
