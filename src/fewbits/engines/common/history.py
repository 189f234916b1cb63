"""A run's rounds as a table, and as curves against bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from fewbits.checks import check_one_of
from fewbits.errors import LocalError

ACCURACY, LOSS = "test accuracy", "test loss"
CHOICES = ("accuracy", "loss", "metric")


class Measured(Protocol):
    """What a report of a round has, of whatever engine."""

    @property
    def round(self) -> int: ...
    @property
    def accuracy(self) -> float | None: ...
    @property
    def loss(self) -> float | None: ...
    @property
    def metric(self) -> float | None: ...
    @property
    def metric_name(self) -> str | None: ...
    @property
    def bytes(self) -> int: ...


def figures(report: Measured) -> dict[str, Any]:
    """All figures of a round by name; `bytes` are the frame bytes so far."""
    return {"round": report.round, "bytes": report.bytes} | asdict(report)  # pyright: ignore[reportArgumentType]


def frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """The rows as a pandas DataFrame, or as a list of dicts where pandas is not installed."""
    try:
        from pandas import DataFrame
    except ImportError:
        return [dict(row) for row in rows]
    return DataFrame([dict(row) for row in rows])


def quantity(runs: Sequence[Sequence[Measured]]) -> str:
    """What a picture shows of these runs: the accuracy, or else the metric, or else the loss.

    >>> quantity([])
    'test accuracy'
    """
    reports = [report for run in runs for report in run]
    if any(r.accuracy is not None for r in reports):
        return ACCURACY
    names = [r.metric_name for r in reports if r.metric is not None and r.metric_name is not None]
    if names:
        return names[0]
    return LOSS if any(r.loss is not None for r in reports) else ACCURACY


def wanted(runs: Sequence[Sequence[Measured]], what: str | None) -> str:
    """What a picture shows when a caller wants one of `CHOICES`; None: what `quantity` says."""
    if what is None:
        return quantity(runs)
    check_one_of("plot: what", what, CHOICES)
    names = [r.metric_name for run in runs for r in run if r.metric is not None and r.metric_name is not None]
    if what == "metric" and not names:
        raise LocalError("plot: no round has a metric; give the run a metric= and a test=")
    return {"accuracy": ACCURACY, "loss": LOSS}.get(what) or names[0]


def curve(reports: Sequence[Measured], what: str) -> list[tuple[int, int, float]]:
    """(round, frame bytes so far, value) of each round that has the value."""
    field = {ACCURACY: "accuracy", LOSS: "loss"}.get(what, "metric")
    values = [(r, getattr(r, field)) for r in reports]
    return [(r.round, r.bytes, value) for r, value in values if value is not None and math.isfinite(value)]
