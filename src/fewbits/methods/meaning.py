"""What the options of a method mean, as the docstrings of its layers say."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

INDENT = 4


def meanings(makers: Sequence[Callable[..., object]]) -> dict[str, str]:
    """A sentence for each argument; an outer layer's wins.

    >>> from fewbits.methods.catalogue import layers
    >>> meanings(layers("topk"))["fraction"]
    'share of the entries that travel, in (0, 1].'
    """
    found: dict[str, str] = {}
    for make in makers:
        found = _arguments(make) | found
    return found


def _arguments(make: Callable[..., object]) -> dict[str, str]:
    """The part `Args:` of a docstring, by argument."""
    lines = (inspect.getdoc(make) or "").splitlines()
    start = lines.index("Args:") + 1 if "Args:" in lines else len(lines)
    found: dict[str, str] = {}
    name = ""
    for line in lines[start:]:
        if line and not line.startswith(" "):
            break
        deeper = line.startswith(" " * (INDENT + 1))
        if line.strip() and not deeper:
            name, _, text = line.strip().partition(": ")
            found[name] = text
        elif line.strip():
            found[name] += f" {line.strip()}"
    return found
