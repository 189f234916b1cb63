"""The table: one line per method, means over seeds; for the terminal and the page."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from rich.table import Table

from fewbits.report.fitted import fitted
from fewbits.report.gossip.record import GossipRecord
from fewbits.report.table import DIVERGED, LEFT_OUT
from fewbits.report.text import NONE, megabytes, times

GIVE_WAY = ("loss", "MB links", "over entropy", "consensus")  # columns that may be left out; the page has all
TAKEN = {"method", "accuracy", "loss", "zeros", "consensus"}  # headings that a metric's name may not take
Figure = Callable[[GossipRecord], float | None]


def rows(records: Sequence[GossipRecord], target: float | None = None) -> list[dict[str, str]]:
    """Texts by heading, one dict per method in the order of their first record."""
    columns: dict[str, tuple[Figure, Callable[[float], str]]] = {
        "worst node": (lambda r: _last(r, "worst_accuracy"), lambda x: f"{x:.1%}"),
        "mean model": (lambda r: _last(r, "mean_accuracy"), lambda x: f"{x:.1%}"),
        **_metric_columns(records),
        "loss": (lambda r: _last(r, "loss"), lambda x: f"{x:.3f}"),
        "MB sent": (lambda r: r.last.frame_bytes, megabytes),
        "MB links": (lambda r: r.last.link_bytes, megabytes),
        "× fewer": (lambda r: r.times_fewer, times),
        "zeros": (lambda r: r.last.sparsity, lambda x: f"{x:.1%}"),
        "consensus": (lambda r: r.last.consensus, lambda x: f"{x:.2g}"),
        "over entropy": (_over, lambda x: f"{x:+.1%}"),
    }
    found = []
    for method in dict.fromkeys(record.method for record in records):
        runs = [r for r in records if r.method == method]
        row = {"method": method, "accuracy": _accuracy(runs) + _mark(runs)}
        for name, (figure, text) in columns.items():
            values = [value for r in runs if (value := figure(r)) is not None]
            row[name] = text(statistics.fmean(values)) if values else NONE
        if target is not None:
            reached = [sent for r in runs if (sent := r.bytes_to(target)) is not None]
            part = f" ({len(reached)} of {len(runs)})" if len(reached) != len(runs) else ""
            row["MB to target"] = megabytes(statistics.fmean(reached)) + part if reached else "never"
        found.append(row)
    return [{name: row[name] for name in row if any(r[name] != NONE for r in found)} for row in found]


def _metric_columns(records: Sequence[GossipRecord]) -> dict[str, tuple[Figure, Callable[[float], str]]]:
    """A column for each metric, under the name of its function: the mean over nodes."""

    def figure(name: str) -> Figure:
        return lambda r: _last(r, "metric") if r.last.metric_name == name else None

    names = dict.fromkeys(r.last.metric_name for r in records if r.last.metric_name is not None)
    return {(f"{n} (metric)" if n in TAKEN else n): (figure(n), lambda x: f"{x:.4g}") for n in names}


def _last(record: GossipRecord, name: str) -> float | None:
    """The last measured value."""
    return next((x for r in reversed(record.reports) if (x := getattr(r, name)) is not None), None)


def _over(record: GossipRecord) -> float | None:
    """Measured bits of all levels, relative to their entropy."""
    pairs = [(r.coded_bits, r.entropy_bits) for r in record.reports if r.coded_bits and r.entropy_bits]
    coded, entropy = sum(c for c, _ in pairs), sum(e for _, e in pairs)
    return coded / entropy - 1 if entropy else None


def _accuracy(records: Sequence[GossipRecord]) -> str:
    values = [value for r in records if (value := _last(r, "accuracy")) is not None]
    if not values:
        return NONE
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2%}{spread}"


def legend(records: Sequence[GossipRecord]) -> list[str]:
    """A line for methods that diverged, and one for those whose nodes took no step at times."""
    methods = {record.method: [r for r in records if r.method == record.method] for record in records}
    diverged = [method for method, runs in methods.items() if any(r.diverged for r in runs)]
    skipped = [f"{m} {count:,} times" for m, runs in methods.items() if (count := sum(r.skipped for r in runs))]
    lines = [f"{DIVERGED} diverged, with a loss or models that are not finite: {', '.join(diverged)}"] * bool(diverged)
    return lines + [f"{LEFT_OUT} nodes took no local step: {', '.join(skipped)}"] * bool(skipped)


def _mark(records: Sequence[GossipRecord]) -> str:
    mark = DIVERGED * any(r.diverged for r in records) + LEFT_OUT * any(r.skipped for r in records)
    return f" {mark}" if mark else ""


def terminal(found: Sequence[dict[str, str]], below: Sequence[str] = ()) -> Table:
    """The table for the terminal, fitted to 80 columns; the columns of `GIVE_WAY` are left out first.

    `below`: the legend.
    """
    return fitted({name: [name, *(row[name] for row in found)] for name in found[0]}, GIVE_WAY, below)
