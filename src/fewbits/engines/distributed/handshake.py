"""The handshake: everybody is here once, and all of them mean the same run."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from fewbits.engines.distributed.process_info import ProcessInfo
from fewbits.engines.distributed.rendezvous import POLL, RendezvousStore
from fewbits.errors import DesyncError, LocalError, PeerLostError

READY = "all here"
SHOWN = 400  # characters of a description


def claim(board: RendezvousStore, place: ProcessInfo) -> None:
    """Be this node; LocalError when another process is it already."""
    if board.count(f"claim/{place.rank}") == 1:
        return
    if board.has(READY):  # a run that is under way is not ours to end
        raise LocalError(f"the run that meets at {place.where} is under way and has its node {place.rank} already")
    words = f"two processes claim to be node {place.rank}; every node needs an id (RANK) of its own"
    raise LocalError(board.say(words))


def introduce(
    board: RendezvousStore, place: ProcessInfo, number: int, facts: Mapping[str, str], patience: float
) -> list[dict[str, str]]:
    """Everybody's facts, in the order of the ranks, once all of them have come to their `number`-th introduction.

    GoneError when one does not come, or says why it cannot.
    """
    names = [f"facts/{number}/{rank}" for rank in range(place.size)]
    board.post(names[place.rank], json.dumps(dict(facts)))
    until = time.monotonic() + patience
    while True:
        words = board.words  # before looking who has come: all are here when somebody speaks of what they said
        if board.has(*names):
            break
        if words:
            raise PeerLostError(words)
        if time.monotonic() > until:
            missing = ", ".join(str(rank) for rank in range(place.size) if not board.has(names[rank]))
            raise PeerLostError(
                board.say(f"node {missing} did not come within {patience:g} s; {place.size} are expected")
            )
        time.sleep(POLL)
    return [json.loads(text) for text in board.read(names)]


def agree(found: list[dict[str, str]], names: set[str]) -> None:
    """DesyncError when the facts of these names differ: the same sentence on every rank, with both descriptions."""
    for name in sorted(names):
        groups: dict[str, list[int]] = {}
        for rank, facts in enumerate(found):
            groups.setdefault(facts.get(name, "none"), []).append(rank)
        if len(groups) > 1:
            reported = "; ".join(f"{_nodes(ranks)} {_short(text)}" for text, ranks in groups.items())
            raise DesyncError(f"the nodes were not started for the same run, their {name} differs: {reported}")


def _nodes(ranks: list[int]) -> str:
    return f"node {ranks[0]} has" if len(ranks) == 1 else f"nodes {', '.join(map(str, ranks))} have"


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
