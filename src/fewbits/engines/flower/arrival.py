"""How a server waits for its nodes: with a line now and then, and not for ever."""

from __future__ import annotations

import logging
import time

from flwr.serverapp import Grid

from fewbits.errors import LocalError

LINE = 10.0  # seconds between two lines
SETTLED = 3.0  # seconds without a new node, after which those that are here count as all
SIMULATION = "in Flower's simulation, flwr run . --federation-config num-supernodes={} makes as many"
log = logging.getLogger("flwr")


def gather(grid: Grid, expected: int | None, wait: float) -> int:
    """Wait for nodes, at most `wait` seconds; how many are here then.

    Args:
        grid: of the run.
        expected: how many nodes to wait for; None: until no new one has come for a while.
        wait: seconds.

    Raises:
        LocalError: no node came, and nobody said how many there are.
    """
    begun = line = changed = time.monotonic()
    here = 0
    while True:
        now, found = time.monotonic(), len(list(grid.get_node_ids()))
        here, changed = (found, now) if found != here else (here, changed)
        if here and (here >= expected if expected is not None else now - changed >= SETTLED):
            return here
        if now - begun >= wait:
            break
        if now >= line:
            line = now + LINE
            most = begun + wait - now
            until = f"until none has come for {SETTLED:g} s, and " if expected is None else ""
            log.info("fewbits: %s; waiting %sfor at most %.0f s more", _count(here, expected), until, most)
            if now == begun and expected is not None:
                log.info("fewbits: %s", SIMULATION.format(expected))
        time.sleep(min(1.0, SETTLED / 2))
    if not here and expected is None:
        raise LocalError(f"federated: no node came within {wait:g} s, and clients= does not say how many there are")
    return here


def _count(here: int, expected: int | None) -> str:
    """For a sentence.

    >>> _count(2, 10), _count(1, None)
    ('2 of 10 nodes are here', '1 node is here')
    """
    if expected is not None:
        return f"{here} of {expected} nodes are here"
    return "1 node is here" if here == 1 else f"{here} nodes are here"


def fewer(here: int, expected: int | None, wait: float) -> str | None:
    """The sentence about going on with fewer nodes than expected; None when all are here.

    >>> fewer(2, 10, 60.0)
    '2 of 10 nodes are here after 60 s; the run goes on with them, and others may join'
    >>> fewer(10, 10, 60.0), fewer(3, None, 60.0)
    (None, None)
    """
    if expected is None or here >= expected:
        return None
    return f"{_count(here, expected)} after {wait:g} s; the run goes on with them, and others may join"
