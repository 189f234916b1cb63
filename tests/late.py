"""A library that is imported by the first test that uses it: the other workers then go without its memory and time."""

import importlib
from typing import Any


class Late:
    """Stands for the module of that name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("_", "pytest")):  # pytest asks every global of a module what it is
            raise AttributeError(name)
        return getattr(importlib.import_module(self._name), name)
