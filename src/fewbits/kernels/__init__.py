"""Compiled loops on NumPy arrays; each file is imported on first use, because importing numba takes 0.3 s.

Write `from fewbits import kernels` and call `kernels.select.largest(...)`.
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewbits.kernels import (
        bits,
        chunks,
        count_sketch,
        dct,
        dots,
        elias,
        feedback,
        golomb,
        hadamard,
        low_rank,
        models,
        nearest,
        peel,
        quantise,
        rans,
        select,
        sizes,
        sketch,
        steps,
    )

__all__ = [
    "bits",
    "chunks",
    "count_sketch",
    "dct",
    "dots",
    "elias",
    "feedback",
    "golomb",
    "hadamard",
    "low_rank",
    "models",
    "nearest",
    "peel",
    "quantise",
    "rans",
    "select",
    "sizes",
    "sketch",
    "steps",
]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        _prepare()
        return importlib.import_module(f"fewbits.kernels.{name}")
    raise AttributeError(f"module 'fewbits.kernels' has no attribute {name!r}")


@cache
def _prepare() -> None:
    """Before the first kernel: Numba's cache, and the line that says that it compiles."""
    importlib.import_module("fewbits.kernels.compilation").prepare()
