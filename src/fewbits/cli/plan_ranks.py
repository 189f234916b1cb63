"""`fewbits plan --bandwidth`: the time that ranks with one model need for an exchange, and the share that computes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import nn

from fewbits.analysis.forecast.ranks import RankForecast, RankLine, all_reduce, forecast_ranks
from fewbits.checks import check_number, check_whole
from fewbits.cli.screen import screen
from fewbits.errors import LocalError
from fewbits.files import write_atomically
from fewbits.json_text import json_text
from fewbits.methods import build
from fewbits.methods.text import MethodText
from fewbits.replicas.noloco import RANK_METHODS
from fewbits.report.text import size
from fewbits.rng import Key

NAMES = ("bandwidth", "latency", "compute", "ranks", "ranks_per_core", "every")
RANKS, EVERY, LATENCY, COMPUTE = 4, "1,30,100", "0ms", "1s"
MOST_RANKS = 10**9
BANDWIDTHS = {"bit": 1.0, "kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9}
TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]+)")
NOTES = """
A rank sends its frame to each of the others, through fb.distributed.OuterStep; dense ones travel in slices, in two legs
as in a ring's all-reduce, and those of noloco to one random rank. Frames are those of Gaussian updates; real ones are
often shorter. Seconds are those of H steps of {compute:g} s and one exchange: latency for each message, the bytes on a
line of {line:g} Mbit/s, and a rank's work in processor time of this machine, {shared}. In percent: the share that
computes. How many steps a model can take between two exchanges without harm, only training says.
"""


def plan_ranks(
    given: Mapping[str, Any],
    methods: Sequence[MethodText],
    settings: Mapping[str, Mapping[str, str]],
    make: Callable[[], nn.Module],
    what: str,
) -> None:
    """Print one line for each method; `given`: the command's options."""
    ranks = RANKS if given["ranks"] is None else given["ranks"]
    check_whole("ranks", ranks, 2, MOST_RANKS)
    every = _every(given["every"] or EVERY)
    per_core = 1.0 if given["ranks_per_core"] is None else given["ranks_per_core"]
    check_number("ranks-per-core", per_core, "(0, inf)")
    line = RankLine(
        read_unit("bandwidth", given["bandwidth"], BANDWIDTHS, "100Mbit"),
        read_unit("latency", given["latency"] or LATENCY, TIMES, "50ms"),
    )
    compute = read_unit("compute", given["compute"] or COMPUTE, TIMES, "1.2s")
    if not compute:
        raise LocalError("compute must be above 0, the time of one step, such as 1.2s")
    numel = sum(p.numel() for p in make().parameters())
    lines, refused = list[RankForecast](), list[str]()
    for method in methods:
        full = MethodText(method.name, settings[method.label], method.given)
        try:
            built = str(full) if method.name in RANK_METHODS else build(full.name, full.settings)
            found = forecast_ranks(make, built, ranks, Key(given["seed"] or 0), per_core)
        except LocalError as error:
            refused.append(f"{full.label}: {error}")
        else:
            lines.append(RankForecast(**{**asdict(found), "method": full.label}))
    check_some(lines, refused)
    plan = _Plan(what, ranks, per_core, line, compute, every, [all_reduce(numel, ranks), *lines], refused)
    plan.show()
    if given["json"] is not None:
        write_atomically(given["json"], (json_text(plan.json(), indent=2) + "\n").encode())


def check_some(lines: Sequence[object], refused: Sequence[str]) -> None:
    """LocalError with all sentences when no method could be planned."""
    if not lines:
        raise LocalError("plan: no method fits. " + "; ".join(refused))


def read_unit(what: str, text: str, units: Mapping[str, float], example: str) -> float:
    """A number with a unit; LocalError with an example for anything else.

    >>> read_unit("bandwidth", "100Mbit", BANDWIDTHS, "1Gbit"), read_unit("latency", "50ms", TIMES, "2ms")
    (100000000.0, 0.05)
    >>> read_unit("latency", "50", TIMES, "2ms")
    Traceback (most recent call last):
    fewbits.errors.LocalError: latency must be a number with one of the units us, ms, s, such as 2ms; got '50'
    """
    found = _NUMBER.fullmatch(text.strip())
    if found is None or found[2] not in units:
        names = ", ".join(units)
        raise LocalError(f"{what} must be a number with one of the units {names}, such as {example}; got {text!r}")
    return float(found[1]) * units[found[2]]


def _every(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise LocalError(f"every must be whole numbers of steps, such as {EVERY}; got {text!r}") from None
    for number in found:
        check_whole("every", number, 1)
    return found


@dataclass(frozen=True)
class _Plan:
    """What was asked, and what was found."""

    what: str
    ranks: int
    per_core: float
    line: RankLine
    compute: float
    every: Sequence[int]
    lines: Sequence[RankForecast]
    refused: Sequence[str]

    def show(self) -> None:
        """Print the table, what its figures are, and what was refused."""
        table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for i, name in enumerate(("method", "frame", "a rank\nsends", *(f"H = {h}" for h in self.every), "H for\n90%")):
            table.add_column(name, justify="right" if i else "left", vertical="bottom", no_wrap=bool(i))
        for one in self.lines:
            found = (
                (one.seconds(self.line, h, self.compute), one.share(self.line, h, self.compute)) for h in self.every
            )
            cells = [f"{seconds:,.3g} s {100 * share:3.0f}%" for seconds, share in found]
            frame = size(one.frame_bytes) if one.frame_bytes else ""
            least = f"{one.least_every(self.line, self.compute):,}" if one.frame_bytes else ""
            table.add_row(one.method, frame, size(round(one.sent_bytes)), *cells, least)
        console = screen()
        console.print(f"{self.what}; {self.ranks:,} ranks", markup=False, highlight=False, soft_wrap=True)
        console.print(table)
        shared = f"a core for {self.per_core:g} ranks" if self.per_core > 1 else "a core for each rank"
        notes = " ".join(NOTES.split()).format(
            compute=self.compute, line=self.line.bits_per_second / 1e6, shared=shared
        )
        console.print(notes, style="dim", highlight=False)
        for sentence in self.refused:
            console.print(f"not planned: {sentence}", markup=False, style="yellow", soft_wrap=True)

    def json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "model": self.what,
            "ranks": self.ranks,
            **asdict(self.line),
            "compute": self.compute,
            "not_planned": list(self.refused),
            "methods": [
                {
                    **asdict(one),
                    "exchange_seconds": one.exchange_seconds(self.line),
                    "seconds": {str(h): one.seconds(self.line, h, self.compute) for h in self.every},
                    "share": {str(h): one.share(self.line, h, self.compute) for h in self.every},
                }
                for one in self.lines
            ],
        }
