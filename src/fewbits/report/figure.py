"""The picture of a training: accuracy, or what stands for it, against bytes, one line per method."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fewbits.errors import LocalError
from fewbits.report import drawing
from fewbits.report.drawing import LIGHT, Curve, Theme
from fewbits.report.record import Record, total


def quantity(records: Sequence[Record]) -> str:
    """What the picture shows: the accuracy, or else the metric, or else the loss.

    >>> quantity([])
    'test accuracy'
    """
    if any(record.curve for record in records):
        return "test accuracy"
    names = [r.metric_name for r in records if r.metric is not None and r.metric_name is not None]
    if names:
        return names[0]
    return "test loss" if any(record.loss is not None for record in records) else "test accuracy"


def _curve(record: Record, what: str) -> Curve:
    """(round, bytes so far, value) of each round that has the value."""
    if what == "test accuracy":
        return record.curve
    values = [(r, r.loss if what == "test loss" else r.metric) for r in record.reports]
    return [(r.round, total(r), value) for r, value in values if value is not None and math.isfinite(value)]


def png(records: Sequence[Record], theme: Theme = LIGHT) -> bytes:
    """The picture as PNG; several seeds of a method become their mean and a band from the least to the greatest.

    LocalError when matplotlib is missing, or no run was ever evaluated.
    """
    figure, what = drawing.new_figure(4.8, theme), quantity(records)
    curves = [(record.method, _curve(record, what)) for record in records]
    if not any(curve for _, curve in curves):
        raise LocalError("there is no picture: no run was evaluated")
    axes = figure.add_subplot()
    methods = list(dict.fromkeys(record.method for record in records))
    for i, method in enumerate(methods):
        drawing.accuracy_curves(axes, [curve for name, curve in curves if name == method], method, theme.line(i))
    drawing.bytes_axis(axes)
    if what == "test accuracy":
        drawing.percent(axes.yaxis)
    below = "bytes sent so far, both directions, headers included (log scale)"
    drawing.dress(axes, theme, below, left=what)
    place = {"loc": "outside upper left", "ncols": min(len(methods), 5), "frameon": False}
    figure.legend(**place, labelcolor=theme.ink, handlelength=1.6)
    return drawing.png(figure, theme)
