"""Order of wrappers: `compress` goes outermost, so that every other wrapper sees plain arrays."""

from __future__ import annotations

import inspect

from flwr.serverapp.strategy import Strategy

from fewbits.engines.flower.delegate import Delegate
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


def chain(strategy: Strategy) -> list[Strategy]:
    """A strategy and those inside it, from the outermost one to the one that aggregates.

    >>> from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
    >>> [type(each).__name__ for each in chain(DifferentialPrivacyServerSideFixedClipping(FedAvg(), 0.0, 1.0, 5))]
    ['DifferentialPrivacyServerSideFixedClipping', 'FedAvg']
    """
    found = [strategy]
    while (inside := _inside(found[-1])) is not None and not any(inside is each for each in found):
        found.append(inside)
    return found


def _inside(strategy: Strategy) -> Strategy | None:
    """What Flower's wrappers name `strategy`; in one of the user's own, that does not weigh itself, any strategy."""
    values = vars(strategy)
    if isinstance(values.get("strategy"), Strategy):
        return values["strategy"]
    others = (x for x in values.values() if isinstance(x, Strategy))
    return None if hasattr(strategy, "weighted_by_key") else next(others, None)


def check_inner(strategy: Strategy) -> None:
    """LocalError when links are inside already, because frames would go into frames."""
    if any(isinstance(each, Delegate) for each in chain(strategy)):
        raise LocalError("compress: the strategy went through compress before; call it once, around all other wrappers")
