"""Order of wrappers: `compress` goes outermost, so that every other wrapper sees plain arrays."""

from __future__ import annotations

import inspect

from flwr.serverapp.strategy import Strategy

from fewbits.errors import LocalError


def check_outermost(ours: Strategy) -> None:
    """LocalError when another strategy calls `ours`, because it would look for arrays in sealed messages.

    Flower's server-side clipping, for one, finds no arrays there, clips nothing, and adds noise as if it had.
    """
    frame, outer = inspect.currentframe(), None
    while frame is not None:
        caller = frame.f_locals.get("self")
        if caller is ours and frame.f_code.co_name == "start":
            return
        if isinstance(caller, Strategy) and caller is not ours:
            outer = caller
        frame = frame.f_back
    if outer is not None:
        name, inside = type(outer).__name__, type(getattr(ours, "inner", ours)).__name__
        raise LocalError(
            f"compress: {name} is around compress, where it sees sealed messages in place of arrays; put compress "
            f"outermost: compress({name}({inside}(...), ...), ...)"
        )
