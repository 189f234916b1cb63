"""Arguments that all entry points take alike."""

from __future__ import annotations

from os import PathLike

from fewbits.checks import check_count, check_seed, shown
from fewbits.errors import LocalError


def check_call(*, rounds: object = None, seed: object = 0, watch: object, out: object) -> None:
    """Raise LocalError unless these are numbers, `watch` can be called and `out` is a path; None is no argument.

    >>> check_call(watch=print, out="runs/first")
    """
    if rounds is not None:
        check_count("rounds", rounds)
    check_seed("seed", seed)
    if watch is not None and not callable(watch):
        raise LocalError(f"watch must be a function of a round's report; got {shown(watch)}")
    if out is not None and not isinstance(out, str | PathLike):
        raise LocalError(f"out must be a folder; got {shown(out)}")
    if out is not None and "\0" in str(out):
        raise LocalError(f"out must be a folder, and {str(out)!r} has a zero character")
