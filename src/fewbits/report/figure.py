"""The picture of a training: accuracy, or what stands for it, against bytes, one line per method."""

from __future__ import annotations

from collections.abc import Sequence

from fewbits.engines.common import history
from fewbits.report import drawing
from fewbits.report.drawing import LIGHT, Theme
from fewbits.report.record import Record


def quantity(records: Sequence[Record]) -> str:
    """What the picture shows: the accuracy, or else the metric, or else the loss.

    >>> quantity([])
    'test accuracy'
    """
    return history.quantity([record.reports for record in records])


def curves(records: Sequence[Record], what: str) -> list[tuple[str, drawing.Curve]]:
    """(method, curve) of each run."""
    return [(record.method, history.curve(record.reports, what)) for record in records]


def png(records: Sequence[Record], theme: Theme = LIGHT) -> bytes:
    """The picture as PNG; several seeds of a method become their mean and a band from the least to the greatest.

    LocalError when matplotlib is missing, or no run was ever evaluated.
    """
    what = quantity(records)
    return drawing.png(drawing.against_bytes(curves(records, what), what, theme), theme)
