"""line_seconds: how long the bytes of a run would take on lines of given speed."""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby, takewhile
from pathlib import Path

from fewbits.analysis.forecast import Link
from fewbits.errors import LocalError
from fewbits.links import ledger


def line_seconds(path: Path, link: Link, rounds: int, frame_bytes: int) -> float:
    """The sum over rounds of the slowest client's seconds: ``sum_t max_k 8 (down_tk / d + up_tk / u)``.

    All clients have the same line; it is the client with the most bytes that the others wait for. Latency, TLS and
    training are not in it.

    Args:
        path: the run's ledger, whose entries stand in the order of rounds.
        link: u and d, the rates of each client's line.
        rounds: those up to this one count; a run may be on its way in the next.
        frame_bytes: of these rounds, both directions, by the run's reports.

    Raises:
        LocalError: a line of the file is no entry, or the entries have another number of bytes.
    """
    seconds, counted = 0.0, 0
    finished = takewhile(lambda entry: entry.round <= rounds, ledger.read(path))
    for _, entries in groupby(finished, lambda entry: entry.round):
        clients: defaultdict[int, float] = defaultdict(float)
        for entry in entries:
            up, down = (entry.frame_bytes, 0) if entry.direction == "up" else (0, entry.frame_bytes)
            clients[entry.client] += link.seconds(up, down)
            counted += entry.frame_bytes
        seconds += max(clients.values())
    if counted != frame_bytes:
        raise LocalError(
            f"{path} is damaged: its entries of {rounds} rounds have {counted:,} bytes, the reports {frame_bytes:,}"
        )
    return seconds
