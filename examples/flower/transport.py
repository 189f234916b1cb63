"""What a client-round costs on the wire beyond its frames, out of the exchanges that taps have counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from fewbits.links.ledger import Entry
from tap import PULL, Exchange

BEGIN, END = "<!-- transport: what stands from here on", "<!-- transport: end -->"
NOTE = f"{BEGIN} is written by `python examples/flower/loopback.py --write docs/flower.md` -->"
HEAD = [
    "| a message and its answer | payload | frame | requests | handshakes | overhead | least to most | polls |",
    "|---|---|---|---|---|---|---|---|",
]
WAYS = ("up", "down")
LEGEND = "overhead: requests and handshakes, beyond the frame, without polls and heartbeats; medians"


def turns(exchanges: Iterable[Exchange]) -> list[list[Exchange]]:
    """The exchanges by messages: from the pull that brings one until the next such pull, without idle ones."""
    found: list[list[Exchange]] = []
    for exchange in exchanges:
        if exchange.path == PULL and exchange.body:
            found.append([])
        if found and not exchange.idle:
            found[-1].append(exchange)
    return found


@dataclass(frozen=True)
class Price:
    """Bytes of one way, beyond frames. An item per client-round, in the first two."""

    requests: tuple[int, ...]  # a message and its answer: Flower's requests with HTTP and TLS, less the frame
    opening: tuple[int, ...]  # the handshakes of connections that were opened for them
    idle: float  # polls and heartbeats, mean from one message to the next
    seconds: float  # from one message to the next, mean

    @property
    def overhead(self) -> tuple[int, ...]:
        """All that a client-round took beyond its frame; polls apart."""
        return tuple(map(sum, zip(self.requests, self.opening, strict=True)))


def price(taps: Sequence[Sequence[Exchange]], entries: Sequence[Entry], way: str) -> Price:
    """Of a run whose exchanges are these, a sequence per client in their order, each of whom took part in every round.

    The first two messages of a run are left out: one brings the app, and with fewbits nothing but a hello, the other
    the model; two more are needed. `entries`: the run's ledger; none for messages without frames.
    """
    at = WAYS.index(way)
    frames = {(e.client, e.round): e.frame_bytes for e in entries if e.direction == way}
    requests, opening, idle, spans = list[int](), list[int](), 0, list[float]()
    for client, exchanges in enumerate(taps):
        found = turns(exchanges)[2:]
        for number, turn in enumerate(found, 2):
            opening.append(sum(each.opening[at] for each in turn))
            whole = sum(getattr(each, way) for each in turn)
            requests.append(whole - opening[-1] - frames.get((client, number), 0))
        starts = [turn[0].began for turn in found]
        idle += sum(getattr(each, way) for each in exchanges if each.idle and starts[0] <= each.began < starts[-1])
        spans += [after - before for before, after in pairwise(starts)]
    return Price(tuple(requests), tuple(opening), idle / len(spans), sum(spans) / len(spans))


def mean(entries: Iterable[Entry], way: str, what: str) -> float:
    """Bytes per client-round from round 2 on: the first one brings the model, too."""
    found = [getattr(e, what) for e in entries if e.direction == way and e.round > 1]
    return sum(found) / len(found) if found else 0.0


def rows(name: str, taps: Sequence[Sequence[Exchange]], entries: Sequence[Entry]) -> list[str]:
    """Two lines of the table."""
    lines = []
    for way in WAYS:
        found = price(taps, entries, way)
        payload, frame = (mean(entries, way, what) for what in ("payload_bytes", "frame_bytes"))
        requests, opening, overhead = map(median, (found.requests, found.opening, found.overhead))
        lines.append(
            f"| {name}, {way} | {payload:,.0f} | {frame:,.0f} | {requests:,.0f} | {opening:,.0f} | {overhead:,.0f} "
            f"| {min(found.overhead):,} to {max(found.overhead):,} | {found.idle:,.0f} in {found.seconds:.0f} s |"
        )
    return lines


def write(page: Path, lines: Sequence[str]) -> None:
    """Put the lines between the page's two marks."""
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text("\n".join([before + NOTE, "", *lines, "", END]) + rest.partition(END)[2])


def documented(page: Path) -> dict[str, list[float]]:
    """The page's table by its first column: payload, frame, requests, handshakes, overhead."""
    table = page.read_text().partition(BEGIN)[2].partition(END)[0]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line[:2] == "| "]
    return {name: [float(cell.replace(",", "")) for cell in found[:5]] for name, *found in cells[1:]}
