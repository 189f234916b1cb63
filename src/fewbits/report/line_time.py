"""line_seconds: how long the bytes of a run would take on lines of given speed."""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby
from pathlib import Path

from fewbits.analysis.forecast import Link
from fewbits.links import ledger


def line_seconds(path: Path, link: Link) -> float:
    """The sum over rounds of the slowest client's seconds: ``sum_t max_k 8 (down_tk / d + up_tk / u)``.

    All clients have the same line; it is the client with the most bytes that the others wait for. Latency, TLS and
    training are not in it.

    Args:
        path: the run's ledger, whose entries stand in the order of rounds.
        link: u and d, the rates of each client's line.

    Raises:
        LocalError: a line of the file is no entry.
    """
    seconds = 0.0
    for _, entries in groupby(ledger.read(path), lambda entry: entry.round):
        clients: defaultdict[int, float] = defaultdict(float)
        for entry in entries:
            up, down = (entry.frame_bytes, 0) if entry.direction == "up" else (0, entry.frame_bytes)
            clients[entry.client] += link.seconds(up, down)
        seconds += max(clients.values())
    return seconds
