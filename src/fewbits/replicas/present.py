"""Which ranks of a run are there, when some leave and others join between two outer steps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from fewbits.links import Entry
from fewbits.replicas.joined import joined as end_to_end
from fewbits.replicas.replica import Replica
from fewbits.wire.frame import HEADER_BYTES

MOST_RANK = 2**31 - 1


class RankChange(NamedTuple):
    """Ranks that left or joined a run.

    Args:
        exchanges: outer steps that had been taken.
        joined: ranks that take part from the next one.
        left: why each of those that left is gone, by rank.
        ranks: those that are there now.

    Example:
        >>> RankChange(3, (), {2: "rank 2 was lost: connection closed by peer"}, (0, 1)).ranks
        (0, 1)
    """

    exchanges: int
    joined: tuple[int, ...]
    left: Mapping[int, str]
    ranks: tuple[int, ...]


def regroup(replicas: Sequence[Replica], ranks: Collection[int], joined: Collection[int] = ()) -> None:
    """Go on among these ranks, in ascending order, at the replicas of one process; call it within `taking`."""
    order = tuple(sorted(ranks))
    for part in replicas[0].outer:
        part.regroup(order, joined)
    for replica in replicas:
        replica.ranks = order


def addressed(replica: Replica, fragment: int, message: memoryview, first: bool) -> memoryview:
    """A message that did not reach all, made for the ranks of now: buffers of integers are those of the lowest.

    Args:
        replica: whose message it is.
        fragment: that it carries.
        message: as it was.
        first: whether this rank was the lowest then.
    """
    if first == replica.first:
        return message
    beside = replica.beside(fragment)
    return end_to_end([message, beside]) if beside else message[: len(message) - replica.whole_bytes(fragment)]


def count_snapshot(replica: Replica, peer: int, direction: str, length: int) -> None:
    """Add a snapshot that travelled to or from this rank to its ledger."""
    replica.ledger.add(Entry(replica.exchanges, peer, direction, length, length - HEADER_BYTES))
