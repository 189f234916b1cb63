"""Senders and receivers in a StateStore: the dumped header is stored every time, the state only when it has changed.

A recycled LBGM round moves an end by one sequence number and leaves its look-back vector, megabytes of it, as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from fewbits.errors import LocalError, WireError
from fewbits.links.receiver import Receiver
from fewbits.links.sender import Sender
from fewbits.links.slots import Piece
from fewbits.links.store import StateStore
from fewbits.wire.frame import HEADER_BYTES

End = TypeVar("End", Sender, Receiver)
STATE = ".state"
FIRST = 256  # bytes that tell most states apart


def damaged(store: StateStore, owner: int, part: str, error: WireError) -> LocalError:
    """What to raise where a stored state cannot be used: it names the file and the client."""
    return LocalError(f"{store.place(owner, part)} is damaged: {error}")


def save(store: StateStore, owner: int, part: str, round: int, pieces: Sequence[Piece], before: Piece | None) -> None:
    """Store what `pieces_of_dump` gave; `before` is what `restore` gave, or None when there was nothing."""
    store.defer(owner, part, round, bytes(pieces[0]))
    if not _same(pieces[1:], memoryview(before or b"")[HEADER_BYTES:]):
        store.put(owner, part + STATE, round, pieces[1:], now=False)


def _same(pieces: Sequence[Piece], state: memoryview) -> bool:
    """Whether the pieces are these bytes."""
    if sum(map(len, pieces)) != len(state):
        return False
    at = 0
    for piece in pieces:
        there, at = state[at : at + len(piece)], at + len(piece)
        if piece[:FIRST] != there[:FIRST] or not np.array_equal(_bytes(piece), _bytes(there)):
            return False
    return True


def _bytes(piece: Piece) -> np.ndarray:
    return np.frombuffer(piece, np.uint8)


def restore(store: StateStore, owner: int, part: str) -> Piece | None:
    """The latest version of an end, for `load`; None when there is none. A memoryview is of memory of its own."""
    head = store.get(owner, part)
    return None if head is None else store.behind(head, owner, part + STATE) or head


@contextmanager
def stored(store: StateStore, owner: int, part: str) -> Iterator[None]:
    """Around the use of a stored state: LocalError where it is damaged."""
    try:
        yield
    except WireError as error:
        raise damaged(store, owner, part, error) from error


def load(store: StateStore, owner: int, part: str, fresh: End) -> tuple[End, Piece | None]:
    """(the end that is stored, or one like `fresh`; what `save` takes as `before`). LocalError: it is damaged."""
    before = restore(store, owner, part)
    try:
        return lend(fresh, before), before
    except WireError as error:
        raise damaged(store, owner, part, error) from error


def lend(fresh: End, stored: Piece | None) -> End:
    """A copy of an end through which nothing went, become the one that `restore` gave, if it gave one."""
    end = object.__new__(type(fresh))
    end.__dict__.update(fresh.__dict__)  # what `copy.copy` does, in a tenth of its calls; nobody changes what is shared
    if stored is not None:
        end.load(stored, lent=True)
    return end


def rollback(store: StateStore, round: int, owners: Iterable[int], part: str) -> None:
    """Drop the owners' versions of this round, if this writer made them."""
    owners = list(owners)
    store.rollback(round, owners, part)
    store.rollback(round, owners, part + STATE)
