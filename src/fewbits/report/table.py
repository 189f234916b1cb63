"""The table: computed once, shown by the terminal and by the page."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from fewbits.report.record import Record

NONE = "–"
WIDTH = 80  # of a terminal
ROOM = ("step", "isotropy", "time", "MB total", "recycled")  # columns that give way, in this order; the page has all
LONG_NAME = 12  # letters of a method's name that fit one line


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
    isotropy: float | None  # of updates in their subspace: 1 when it holds as much as of a random vector
    step: float | None  # how far a local step goes along an isotropic gradient, in a subspace
    epsilon: float | None  # of the whole run, the largest over seeds
    own: tuple[float, float, float] | None  # on clients' own held-out examples: mean, spread over clients, worst tenth
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
        isotropy=_mean([r.isotropy for r in records if r.isotropy is not None]),
        step=_mean([r.effective_step for r in records if r.effective_step is not None]),
        epsilon=max((r.epsilon for r in records if r.epsilon is not None), default=None),
        own=_means([r.own for r in records if r.own is not None]),
        seconds=statistics.fmean(r.last.seconds for r in records),
        reached=None if target is None else len(reached),
        to_target=_mean(reached),
    )


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _means(values: Sequence[tuple[float, float, float]]) -> tuple[float, float, float] | None:
    mean, spread, worst = zip(*values, strict=True) if values else ((), (), ())
    return (statistics.fmean(mean), statistics.fmean(spread), statistics.fmean(worst)) if values else None


def columns(found: Sequence[Row]) -> list[str]:
    """The headings; columns that nothing fills are left out."""
    names = ["method", "accuracy"]
    names += ["own data", "worst 10%"] if any(r.own is not None for r in found) else []
    names += ["MB up", "MB down", "MB total"]
    names += ["× fewer"] if any(r.times_fewer is not None for r in found) else []
    names += ["recycled"] if any(r.recycled is not None for r in found) else []
    names += ["epsilon"] if any(r.epsilon is not None for r in found) else []
    names += ["isotropy", "step"] if any(r.isotropy is not None for r in found) else []
    names += ["MB to target"] if any(r.reached is not None for r in found) else []
    return [*names, "time"]


def cells(row: Row, names: Sequence[str]) -> list[str]:
    """The texts of one row under these headings."""
    texts = {
        "method": row.method,
        "accuracy": _accuracy(row),
        "own data": NONE if row.own is None else f"{row.own[0]:.1%} ± {100 * row.own[1]:.1f}",
        "worst 10%": NONE if row.own is None else f"{row.own[2]:.0%}",
        "MB up": megabytes(row.up),
        "MB down": megabytes(row.down),
        "MB total": megabytes(row.up + row.down),
        "× fewer": _times(row.times_fewer),
        "recycled": NONE if row.recycled is None else f"{row.recycled:.0%}",
        "epsilon": NONE if row.epsilon is None else f"{row.epsilon:.3g}",
        "isotropy": NONE if row.isotropy is None else f"{row.isotropy:.3g}",
        "step": NONE if row.step is None else f"{row.step:.2g}",
        "MB to target": _target(row),
        "time": f"{row.seconds:.1f} s" if row.seconds < 100 else f"{row.seconds:,.0f} s",
    }
    return [texts[name] for name in names]


def _times(count: float | None) -> str:
    if count is None:
        return NONE
    return f"{count:.3g}" if count < 1000 else f"{count:,.0f}"


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
    """The table for rich; two lines for headings and long names, and no spaces in cells, make the most of 80 columns.

    Where it would still be wider, the columns of `ROOM` are left out one by one, then the rest come closer.
    """
    names = columns(found)
    texts = {name: ["\n".join(name.rsplit(" ", 1)), *(_short(row, name) for row in found)] for name in names}
    for name in ROOM:
        if name in texts and _width(texts) > WIDTH:
            del texts[name]
    apart = 1 if _width(texts) <= WIDTH else 0  # besides the box's own space
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 0, 0, apart), pad_edge=False)
    for name, (heading, *_) in texts.items():
        table.add_column(heading, justify="left" if name == "method" else "right", no_wrap=True, vertical="bottom")
    for row in list(zip(*texts.values(), strict=True))[1:]:
        table.add_row(*row)
    return table


def _short(row: Row, name: str) -> str:
    (text,) = cells(row, [name])
    if name == "method" and len(text) > LONG_NAME:
        return text.replace("+", "\n+", 1)
    return text.replace(" ", "")


def _width(texts: Mapping[str, Sequence[str]]) -> int:
    """Of the table with two spaces between columns."""
    return sum(2 + max(len(line) for text in column for line in text.split("\n")) for column in texts.values())
