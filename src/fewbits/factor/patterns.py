"""Shell patterns on names; a pattern that matches nothing is an error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from fewbits.errors import LocalError


def within(name: str, pattern: str) -> bool:
    """Return whether a pattern matches a dotted name or a module that contains it.

    >>> [within("features.0.weight", p) for p in ("features", "features.0", "*.weight", "feat", "0")]
    [True, True, True, False, False]
    """
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:length]), pattern) for length in range(1, len(parts) + 1))


def chosen(names: Sequence[str], patterns: Iterable[str], purpose: str) -> set[str]:
    """Return the names that at least one pattern matches.

    Raises:
        LocalError: a pattern matches none; the text gives the purpose, the pattern and the names.
    """
    found: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if within(name, pattern)}
        if not matched:
            raise LocalError(f"{purpose}: pattern {pattern!r} matches nothing; there are {_some(names)}")
        found |= matched
    return found


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > 12 else shown or "none"
