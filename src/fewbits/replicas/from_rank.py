"""from_rank: an error says whose frame it is about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fewbits.errors import WireError


@contextmanager
def from_rank(rank: int) -> Iterator[None]:
    """A WireError within names the rank whose frame was read; its class stays.

    >>> with from_rank(2):
    ...     raise WireError("checksum is wrong")
    Traceback (most recent call last):
    ...
    fewbits.errors.WireError: the frame of rank 2: checksum is wrong
    """
    try:
        yield
    except WireError as error:
        raise type(error)(f"the frame of rank {rank}: {error}") from None
