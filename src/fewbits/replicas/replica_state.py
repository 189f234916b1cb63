"""The state of a fragment as tensors, texts and numbers, and back."""

from __future__ import annotations

from collections.abc import Mapping

from fewbits.errors import LocalError, WireError
from fewbits.replicas.outer_model import Link, OuterModel, OuterState
from fewbits.replicas.state_parts import OWNER, RankEnds, count, ends_of, read_ends, read_like, taken


def values(part: OuterModel) -> dict[str, object]:
    """Theta, moments and the number of outer steps of a fragment."""
    theta, moments, rounds = part.state
    return {"theta": theta.clone(), "moments": [m.clone() for m in moments], "rounds": rounds}


def write(part: OuterModel, sender: RankEnds) -> dict[str, object]:
    """The state of a fragment at one replica."""
    return values(part) | ends_of(sender, part.link)


def read_values(state: object, part: OuterModel) -> OuterState:
    """What `values` gave; LocalError when it does not fit."""
    if not isinstance(state, Mapping):
        raise LocalError(f"{OWNER}: a fragment is a dict; got {type(state).__name__}")
    moments, now = taken(state, "moments", list), part.now
    if len(moments) != len(now.moments):
        raise LocalError(f"{OWNER}: the optimizer has {len(now.moments)} moments; the state has {len(moments)}")
    read = tuple(read_like(x, like) for x, like in zip(moments, now.moments, strict=True))
    theta = read_like(state.get("theta"), now.theta)
    try:
        part.check(theta)
    except WireError as error:
        raise LocalError(f"{OWNER}: {error}") from None
    return OuterState(theta, read, count(state, "rounds"))


def read(state: object, part: OuterModel, sender: RankEnds) -> tuple[OuterState, RankEnds, Link]:
    """The state that `write` gave, in new objects; LocalError when it does not fit."""
    return read_values(state, part), *read_ends(state, sender, part.link)
