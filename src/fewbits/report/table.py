"""The table of trainings with a server: computed once, shown by the terminal and by the page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from fewbits.privacy.account import PrivacyLoss, shown
from fewbits.report.fitted import fitted, two_lines
from fewbits.report.record import Record
from fewbits.report.text import NONE, megabytes, size, times

# Columns that may be left out; the page has all.
GIVE_WAY = ("step", "isotropy", "time", "MB total", "recycled", "MB down", "MB up")
# Headings that a metric's name may not take.
TAKEN = {
    "method",
    "accuracy",
    "test loss",
    "personal data",
    "recycled",
    "epsilon",
    "isotropy",
    "step",
    "line time",
    "time",
}
DIVERGED, LEFT_OUT = "!", "*"  # marks on an accuracy; `legend` explains them
LONG_NAME = 12  # letters of a method's name that fit one line


@dataclass(frozen=True)
class Row:
    """One method, averaged over its seeds."""

    method: str  # its label, or its name
    seeds: int  # number of runs
    accuracy: float | None  # mean over seeds of the last one measured
    spread: float | None  # sample standard deviation over seeds; None for one seed
    up: float  # frame bytes from clients to the server, mean over seeds
    down: float  # frame bytes that clients received, mean over seeds
    times_fewer: float | None  # bytes of the dense run over these, both directions together; None: no dense run
    recycled: float | None  # share of updates that were recycled; None: the method does not recycle
    isotropy: float | None  # of updates in their subspace; 1: as much of them as of a random vector
    step: float | None  # in a subspace: how far a local step goes along an isotropic gradient
    privacy: PrivacyLoss | None  # of the whole run, the largest over seeds
    personal: tuple[float, ...] | None  # on clients' held-out examples: mean, spread over clients, worst tenth
    seconds: float  # wall time, mean over seeds
    left_out: tuple[int, int, int]  # turns of clients in all runs: skipped, with a rejected frame, all
    diverged: int  # seeds whose run diverged
    reached: int | None  # seeds that reached the target; None: there is no target
    to_target: float | None  # mean bytes of the seeds that reached the target
    loss: float | None = None  # mean over seeds of the last loss on the test set
    metric: float | None = None  # mean over seeds of the last value of the user's metric
    metric_name: str | None = None  # the name of the metric's function
    by_client: tuple[float, ...] | None = None  # least, 10%, median and 90% of the clients, mean over seeds
    line_seconds: float | None = None  # on lines of a given speed, mean over seeds
    # (bytes, accuracy): mean over seeds within these bytes; None: not all of them spent so much and were evaluated
    at: tuple[tuple[int, float | None], ...] = ()
    first: float = 0.0  # the part of `down` that brought clients their first model, mean over seeds


def rows(records: Sequence[Record], target: float | None = None, at: Sequence[int] = ()) -> list[Row]:
    """One row per method, in the order of their first record.

    Args:
        records: the runs.
        target: an accuracy, of which the bytes that it took are shown.
        at: byte counts, at which the accuracy is shown.
    """
    methods = dict.fromkeys(record.method for record in records)
    return [_row([r for r in records if r.method == method], target, at) for method in methods]


def _row(records: Sequence[Record], target: float | None, at: Sequence[int]) -> Row:
    accuracies = [r.accuracy for r in records if r.accuracy is not None]
    skipped, rejected, turns = (sum(counts) for counts in zip(*(r.left_out for r in records), strict=True))
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
        privacy=max((r.privacy for r in records if r.privacy), key=lambda loss: loss.epsilon, default=None),
        personal=_means([r.personal for r in records if r.personal is not None]),
        seconds=statistics.fmean(r.last.seconds for r in records),
        left_out=(skipped, rejected, turns),
        diverged=sum(r.diverged is not None for r in records),
        reached=None if target is None else len(reached),
        to_target=_mean(reached),
        loss=_mean([r.loss for r in records if r.loss is not None]),
        metric=_mean([r.metric for r in records if r.metric is not None]),
        metric_name=next((r.metric_name for r in records if r.metric_name is not None), None),
        by_client=_means([r.by_client for r in records if r.by_client is not None]),
        line_seconds=_mean([r.line_seconds for r in records if r.line_seconds is not None]),
        at=tuple((count, _mean_of_all([r.accuracy_at(count) for r in records])) for count in at),
        first=statistics.fmean(r.down.get("first contact", 0) / 8 for r in records),
    )


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _mean_of_all(values: Sequence[float | None]) -> float | None:
    found = [x for x in values if x is not None]
    return _mean(found) if len(found) == len(values) else None


def _means(values: Sequence[tuple[float, ...]]) -> tuple[float, ...] | None:
    return tuple(map(statistics.fmean, zip(*values, strict=True))) if values else None


def columns(found: Sequence[Row]) -> list[str]:
    """The headings; empty columns are left out."""
    others = [r for r in found if r.method != "dense"] or found
    names = ["method", "accuracy"]
    names += metric_columns(found)
    names += ["test loss"] if all(r.accuracy is None for r in found) and any(r.loss is not None for r in found) else []
    names += ["personal data", "worst 10%"] if any(r.personal is not None for r in found) else []
    names += ["× fewer"] if any(r.times_fewer is not None for r in others) else []
    names += [_at(count) for count in dict.fromkeys(count for r in found for count, _ in r.at)]
    names += ["MB up", "MB down", "MB total"]
    names += ["recycled"] if any(r.recycled is not None for r in found) else []
    names += ["epsilon"] if any(r.privacy is not None for r in found) else []
    names += ["isotropy", "step"] if any(r.isotropy is not None for r in found) else []
    names += ["MB to target"] if any(r.reached is not None for r in found) else []
    names += ["line time"] if any(r.line_seconds is not None for r in found) else []
    return [*names, "time"]


def _at(count: int) -> str:
    """The heading of an accuracy at so many bytes."""
    return f"at {size(count)}".replace(" ", "\N{NO-BREAK SPACE}").replace("\N{NO-BREAK SPACE}", " ", 1)


def metric_columns(found: Sequence[Row]) -> list[str]:
    """The names of the users' metrics; one that is called like another column is marked."""
    names = dict.fromkeys(r.metric_name for r in found if r.metric_name is not None)
    return [f"{name} (metric)" if name in TAKEN else name for name in names]


def cells(row: Row, names: Sequence[str]) -> list[str]:
    """The texts of one row under these headings."""
    texts = {
        "method": row.method,
        "accuracy": _accuracy(row),
        "test loss": NONE if row.loss is None else f"{row.loss:.4g}",
        "personal data": NONE if row.personal is None else f"{row.personal[0]:.1%} ± {100 * row.personal[1]:.1f}",
        "worst 10%": NONE if row.personal is None else f"{row.personal[2]:.0%}",
        "MB up": megabytes(row.up),
        "MB down": megabytes(row.down),
        "MB total": megabytes(row.up + row.down),
        "× fewer": times(row.times_fewer),
        "recycled": NONE if row.recycled is None else f"{row.recycled:.0%}",
        "epsilon": NONE if row.privacy is None else f"{shown(row.privacy.epsilon)} {row.privacy.kind}",
        "isotropy": NONE if row.isotropy is None else f"{row.isotropy:.3g}",
        "step": NONE if row.step is None else f"{row.step:.2g}",
        "MB to target": _target(row),
        "line time": NONE if row.line_seconds is None else _line_time(row.line_seconds),
        "time": _seconds(row.seconds),
    }
    texts |= {_at(count): NONE if found is None else f"{found:.2%}" for count, found in row.at}
    for name in metric_columns([row]):
        texts[name] = NONE if row.metric is None else f"{row.metric:.4g}"
    return [texts.get(name, NONE) for name in names]


def _seconds(x: float) -> str:
    return f"{x:.1f} s" if x < 100 else f"{x:,.0f} s"


def _line_time(x: float) -> str:
    return f"{x:.3g} s" if x < 100 else _seconds(x)


def _accuracy(row: Row) -> str:
    if row.accuracy is None:
        text = NONE
    else:
        text = f"{row.accuracy:.2%}" if row.spread is None else f"{row.accuracy:.2%} ± {100 * row.spread:.2f}"
    mark = (DIVERGED if row.diverged else "") + (LEFT_OUT if any(row.left_out[:2]) else "")
    return f"{text} {mark}" if mark else text


def legend(found: Sequence[Row]) -> list[str]:
    """A line for each mark in the table: the methods that diverged, and those with turns that do not count."""
    diverged = [f"{r.method}{_of_seeds(r)}" for r in found if r.diverged]
    left_out = [
        f"{r.method} {r.left_out[0] + r.left_out[1]:,} of {r.left_out[2]:,} ({r.left_out[0]:,} skipped, "
        f"{r.left_out[1]:,} rejected)"
        for r in found
        if any(r.left_out[:2])
    ]
    lines = [f"{DIVERGED} diverged, with a loss or updates that are not finite: {', '.join(diverged)}"] * bool(diverged)
    lines += [
        f"{NONE} {_at(count)}: ended before, or had no evaluated round within: {', '.join(names)}"
        for count, names in _without(found).items()
    ]
    lines += [f"{LEFT_OUT} turns of clients that do not count: {'; '.join(left_out)}"] * bool(left_out)
    return lines + _first_contact(found)


def _first_contact(found: Sequence[Row]) -> list[str]:
    """A line where bringing clients their first model is most of what a method sent."""
    most = [
        f"{row.method} {megabytes(row.first)} of {megabytes(row.up + row.down)} MB"
        for row in found
        if 2 * row.first > row.up + row.down
    ]
    said = "; as a function of a key the model travels as a seed, of some bytes"
    return [f"Most bytes are the model at first contact: {', '.join(most)}{said}."] * bool(most)


def _without(found: Sequence[Row]) -> dict[int, list[str]]:
    """By byte count: the methods without an accuracy there, though they have one."""
    lines: dict[int, list[str]] = {}
    for row in found:
        for count, accuracy in row.at:
            if accuracy is None and row.accuracy is not None:
                lines.setdefault(count, []).append(row.method)
    return lines


def _of_seeds(row: Row) -> str:
    return "" if row.seeds == 1 else f" ({row.diverged} of {row.seeds} seeds)"


def _target(row: Row) -> str:
    if row.to_target is None:
        return "never"
    part = f" ({row.reached} of {row.seeds})" if row.reached != row.seeds else ""
    return megabytes(row.to_target) + part


def terminal(found: Sequence[Row]) -> Table:
    """The table for a terminal of 80 columns; headings and long names take two lines, and cells have no spaces.

    A table that is still too wide loses an accuracy that nobody has, then the columns of
    `GIVE_WAY` one by one; then the rest come closer.
    The legend stands below it.
    """
    texts = {name: [name, *(_short(row, name) for row in found)] for name in columns(found)}
    nobody = ["accuracy"] * (set(texts["accuracy"][1:]) == {NONE})  # as in a regression
    return fitted(texts, [*nobody, *GIVE_WAY], [*legend(found), *privacy_lines(found)], unsaid=nobody)


def privacy_lines(found: Sequence[Row]) -> list[str]:
    """What each epsilon means: against whom, for which neighbours and delta."""
    return [f"epsilon of {row.method}: {row.privacy.text()}" for row in found if row.privacy is not None]


def _short(row: Row, name: str) -> str:
    (text,) = cells(row, [name])
    if name == "method":
        return two_lines(text) if len(text) > LONG_NAME else text
    if name == "epsilon":
        return "\n".join(text.rsplit(" ", 1))
    return text.replace(" ", "")
