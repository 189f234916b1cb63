"""The picture of a training: accuracy against bytes, one line per method."""

from __future__ import annotations

from collections.abc import Sequence

from fewbits.errors import LocalError
from fewbits.report import drawing
from fewbits.report.drawing import LIGHT, Theme
from fewbits.report.record import Record


def png(records: Sequence[Record], theme: Theme = LIGHT) -> bytes:
    """The picture as PNG; several seeds of a method become their mean and a band from the least to the greatest.

    LocalError when matplotlib is missing, or no run was ever evaluated.
    """
    figure = drawing.new_figure(4.8, theme)
    if not any(record.curve for record in records):
        raise LocalError("there is no picture: no run was evaluated")
    axes = figure.add_subplot()
    methods = list(dict.fromkeys(record.method for record in records))
    for i, method in enumerate(methods):
        drawing.accuracy_curves(axes, [r.curve for r in records if r.method == method], method, theme.line(i))
    drawing.bytes_axis(axes)
    drawing.percent(axes.yaxis)
    below = "bytes sent so far, both directions, headers included (log scale)"
    drawing.dress(axes, theme, below, left="test accuracy")
    place = {"loc": "outside upper left", "ncols": min(len(methods), 5), "frameon": False}
    figure.legend(**place, labelcolor=theme.ink, handlelength=1.6)
    return drawing.png(figure, theme)
