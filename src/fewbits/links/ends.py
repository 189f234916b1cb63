"""Senders and receivers in a StateStore: the dumped header is stored every time, the state only when it has changed.

A recycled LBGM round moves an end by one sequence number and leaves its look-back vector, megabytes of it, as it was.
"""

from __future__ import annotations

from collections.abc import Iterable

from fewbits.links.store import StateStore
from fewbits.wire.frame import HEADER_BYTES

STATE = ".state"


def save(store: StateStore, owner: int, part: str, round: int, data: bytes, before: bytes | None) -> None:
    """Store what `dump` gave; `before` is what `restore` gave, or None when there was nothing."""
    store.defer(owner, part, round, data[:HEADER_BYTES])
    state = data[HEADER_BYTES:]
    if state != (before or b"")[HEADER_BYTES:]:
        store.put(owner, part + STATE, round, state)


def restore(store: StateStore, owner: int, part: str) -> bytes | None:
    """The latest version of an end, for `load`; None when there is none."""
    head = store.get(owner, part)
    return None if head is None else head + (store.get(owner, part + STATE) or b"")


def rollback(store: StateStore, round: int, owners: Iterable[int], part: str) -> None:
    """Drop the owners' versions of this round, if this writer made them."""
    owners = list(owners)
    store.rollback(round, owners, part)
    store.rollback(round, owners, part + STATE)
