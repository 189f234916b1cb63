"""loaded_ends: ends of links, as they were stored."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

from fewbits.errors import WireError
from fewbits.links import Receiver, Sender

End = TypeVar("End", Sender, Receiver)


def loaded_ends(ends: Sequence[End], stored: Sequence[bytes], what: str) -> list[End]:
    """Copies of the ends, each become what was stored; the given ones stay as they are.

    Args:
        ends: of the links that there are.
        stored: what `dump` of each gave.
        what: what there is one end of, such as "links".

    Raises:
        WireError: there are more or fewer of them, or one is damaged or of another codec.
    """
    if len(stored) != len(ends):
        raise WireError(f"the state has the ends of {len(stored)} {what}; there are {len(ends)}")
    found = [copy.copy(end) for end in ends]
    for end, data in zip(found, stored, strict=True):
        end.load(data)
    return found
