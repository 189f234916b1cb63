"""The table: computed once, shown by the terminal and by the page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from fewbits.report.record import Record

NONE = "–"


@dataclass(frozen=True)
class Row:
    """One method, averaged over its seeds."""

    method: str
    seeds: int
    accuracy: float | None  # mean of the last ones
    spread: float | None  # sample standard deviation over seeds; None for one seed
    up: float  # frame bytes
    down: float
    times_fewer: float | None  # than dense, both directions together
    recycled: float | None  # share of updates
    seconds: float
    reached: int | None  # seeds that reached the target; None: no target was given
    to_target: float | None  # mean bytes of those that did


def rows(records: Sequence[Record], target: float | None = None) -> list[Row]:
    """One row per method, in the order of their first record."""
    methods = dict.fromkeys(record.method for record in records)
    return [_row([r for r in records if r.method == method], target) for method in methods]


def _row(records: Sequence[Record], target: float | None) -> Row:
    accuracies = [r.accuracy for r in records if r.accuracy is not None]
    reached = [] if target is None else [sent for r in records if (sent := r.bytes_to(target)) is not None]
    return Row(
        method=records[0].method,
        seeds=len(records),
        accuracy=_mean(accuracies),
        spread=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        up=statistics.fmean(r.last.up_frame_bytes for r in records),
        down=statistics.fmean(r.last.down_frame_bytes for r in records),
        times_fewer=_mean([r.times_fewer for r in records if r.times_fewer is not None]),
        recycled=_mean([r.recycled for r in records if r.recycled is not None]),
        seconds=statistics.fmean(r.last.seconds for r in records),
        reached=None if target is None else len(reached),
        to_target=_mean(reached),
    )


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def columns(found: Sequence[Row]) -> list[str]:
    """The headings; columns that nothing fills are left out."""
    names = ["method", "accuracy", "MB up", "MB down", "MB total"]
    names += ["× fewer"] if any(r.times_fewer is not None for r in found) else []
    names += ["recycled"] if any(r.recycled is not None for r in found) else []
    names += ["MB to target"] if any(r.reached is not None for r in found) else []
    return [*names, "time"]


def cells(row: Row, names: Sequence[str]) -> list[str]:
    """The texts of one row under these headings."""
    texts = {
        "method": row.method,
        "accuracy": _accuracy(row),
        "MB up": megabytes(row.up),
        "MB down": megabytes(row.down),
        "MB total": megabytes(row.up + row.down),
        "× fewer": NONE if row.times_fewer is None else f"{row.times_fewer:.3g}",
        "recycled": NONE if row.recycled is None else f"{row.recycled:.0%}",
        "MB to target": _target(row),
        "time": f"{row.seconds:.1f} s" if row.seconds < 100 else f"{row.seconds:,.0f} s",
    }
    return [texts[name] for name in names]


def _accuracy(row: Row) -> str:
    if row.accuracy is None:
        return NONE
    return f"{row.accuracy:.2%}" if row.spread is None else f"{row.accuracy:.2%} ± {100 * row.spread:.2f}"


def _target(row: Row) -> str:
    if row.to_target is None:
        return "never"
    part = f" ({row.reached} of {row.seeds})" if row.reached != row.seeds else ""
    return megabytes(row.to_target) + part


def megabytes(count: float) -> str:
    """Bytes in units of 10^6, with three figures."""
    value = count / 1e6
    if value < 1:
        return f"{value:.3f}" if value >= 0.01 else f"{value:.2g}"
    return f"{value:,.{max(0, 3 - len(str(int(value))))}f}"


def terminal(found: Sequence[Row]) -> Table:
    """The table for rich; two-line headings and no spaces in cells let the widest one fit 80 columns."""
    names = columns(found)
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    for i, name in enumerate(names):
        heading = "\n".join(name.rsplit(" ", 1))
        table.add_column(heading, justify="left" if i == 0 else "right", no_wrap=True, vertical="bottom")
    for row in found:
        table.add_row(*(text.replace(" ", "") for text in cells(row, names)))
    return table
