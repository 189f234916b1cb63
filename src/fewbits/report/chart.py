"""The chart of a page: the figures of all runs, and a script that draws them in the browser."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from html import escape
from importlib.resources import files

from fewbits.engines.common.history import ACCURACY, LOSS, quantity
from fewbits.engines.simulation import RoundReport
from fewbits.json_text import json_text
from fewbits.report.record import Record

MOST = 1000  # evaluated rounds of a run on a page
Value = Callable[[RoundReport], float | None]


@cache
def script() -> str:
    """What draws charts and sorts tables."""
    return files("fewbits.report").joinpath("chart.js").read_text(encoding="utf-8")


def chart(records: Sequence[Record], caption: str, otherwise: str) -> str:
    """The figure as HTML; `otherwise`: HTML for browsers without scripts. "" when no round was evaluated."""
    fields = _fields(records)
    rounds = [_evaluated(record, fields) for record in records]
    if not any(rounds):
        return ""
    every = -(-max(map(len, rounds)) // MOST)  # of all runs alike, so that seeds share rounds
    runs = [
        {
            "method": record.method,
            "seed": record.seed,
            "round": [report.round for report in found],
            "up": [report.up_frame_bytes for report in found],
            "down": [report.down_frame_bytes for report in found],
            "seconds": [round(report.seconds, 3) for report in found],
            "values": {name: [_finite(of(report)) for report in found] for name, of in fields.items()},
        }
        for record, seen in zip(records, rounds, strict=True)
        if (found := _thinned(seen, every))
    ]
    first = quantity([record.reports for record in records])
    data = {
        "methods": list(dict.fromkeys(record.method for record in records)),
        "values": sorted(fields, key=lambda name: name != first),
        "percent": [ACCURACY],
        "runs": runs,
    }
    thinned = f" It has one evaluated round of {every}, and the last one." if every > 1 else ""
    text = json_text(data).replace("<", "\\u003c")  # no end of the script inside it
    return (
        f'<figure class="chart"><script type="application/json">{text}</script>'
        f'<noscript>{otherwise}</noscript></figure><p class="soft">{escape(caption + thinned)}</p>'
    )


def _fields(records: Sequence[Record]) -> dict[str, Value]:
    """The values that some round has, by name."""
    reports = [report for record in records for report in record.reports]
    metrics = dict.fromkeys(r.metric_name for r in reports if r.metric is not None and r.metric_name)
    fields: dict[str, Value] = {ACCURACY: lambda r: r.accuracy, LOSS: lambda r: r.loss}
    for name in metrics:
        fields[name] = lambda r, name=name: r.metric if r.metric_name == name else None
    return {name: of for name, of in fields.items() if any(_finite(of(r)) is not None for r in reports)}


def _evaluated(record: Record, fields: dict[str, Value]) -> list[RoundReport]:
    return [r for r in record.reports if any(_finite(of(r)) is not None for of in fields.values())]


def _thinned(seen: Sequence[RoundReport], every: int) -> Sequence[RoundReport]:
    """One of so many rounds, and the last one."""
    return [report for i, report in enumerate(seen) if i % every == 0 or report is seen[-1]]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
