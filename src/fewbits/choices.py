"""An unknown name: the error lists the names there are and suggests the nearest one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from fewbits.errors import LocalError


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like `name`, whatever the case of its letters; None: none is like it.

    >>> nearest("TopK", ["dense", "topk"])
    'topk'
    """
    by_case = {each.casefold(): each for each in known}
    found = get_close_matches(name.strip().casefold(), by_case, n=1)
    return by_case[found[0]] if found else None


def unknown(what: str, name: str, known: Iterable[str], more: str = "", near: str | None = None) -> LocalError:
    """The error for a `name` that is not among the `known` ones.

    Args:
        what: the kind of name.
        name: as given.
        known: the names there are.
        more: put at the end of the sentence.
        near: a better suggestion than the nearest of the known names.

    >>> print(unknown("method", "lbmg", ["dense", "lbgm"]))
    unknown method 'lbmg'; did you mean 'lbgm'? choose one of dense, lbgm
    """
    names = list(known)
    near = near or nearest(name, names)
    hint = f"did you mean {near!r}? " if near else ""
    return LocalError(f"unknown {what} {name!r}; {hint}choose one of {', '.join(names)}{more}")
