"""An unknown name: the error lists the names there are and suggests the nearest one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from fewbits.errors import LocalError


def unknown(what: str, name: str, known: Iterable[str], more: str = "") -> LocalError:
    """The error for a `name` that is not among the `known` ones; `more` is put at the end of its sentence.

    >>> print(unknown("method", "lbmg", ["dense", "lbgm"]))
    unknown method 'lbmg'; did you mean 'lbgm'? choose one of dense, lbgm
    """
    names = list(known)
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return LocalError(f"unknown {what} {name!r}; {hint}choose one of {', '.join(names)}{more}")
