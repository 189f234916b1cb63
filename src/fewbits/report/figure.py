"""The picture: accuracy against the bytes it took, one line per method."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fewbits.errors import LocalError
from fewbits.report.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which people with any colour vision tell apart; the yellow is left out: too pale on white.
COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
MARKERS = "osD^vPX"
DPI = 150


@dataclass(frozen=True)
class Theme:
    """Colours that differ between light and dark."""

    paper: str
    ink: str
    grid: str
    blue: str  # the first line's: Okabe and Ito's is too dark for a dark page


LIGHT = Theme(paper="#ffffff", ink="#24292f", grid="#e4e7eb", blue="#0072B2")
DARK = Theme(paper="#16191e", ink="#d7dce2", grid="#2c323a", blue="#6CA8FF")


def png(records: Sequence[Record], theme: Theme = LIGHT) -> bytes:
    """The picture as PNG; several seeds of a method become their mean and a band from the least to the greatest.

    LocalError when matplotlib is missing, or no run was ever evaluated.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise LocalError("the picture needs matplotlib; pip install fewbits[report]") from None
    if not any(record.curve for record in records):
        raise LocalError("there is no picture: no run was evaluated")
    figure = Figure(figsize=(8, 4.8), dpi=DPI, layout="constrained", facecolor=theme.paper)
    axes = figure.add_subplot(facecolor=theme.paper)
    methods = list(dict.fromkeys(record.method for record in records))
    for i, method in enumerate(methods):
        _line(axes, [r for r in records if r.method == method and r.curve], method, i, theme)
    _frame(axes, theme, len(methods))
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor=theme.paper)
    return out.getvalue()


def _line(axes: Axes, records: Sequence[Record], label: str, i: int, theme: Theme) -> None:
    """Mean over seeds at equal rounds."""
    if not records:
        return
    shared = set.intersection(*({n for n, _, _ in r.curve} for r in records))
    points = np.array([[(sent, accuracy) for n, sent, accuracy in r.curve if n in shared] for r in records])
    sent, accuracy = points[:, :, 0].mean(0), points[:, :, 1]  # (rounds,), (seeds, rounds)
    colours = (theme.blue, *COLOURS)
    colour, marker = colours[i % len(colours)], MARKERS[i % len(MARKERS)]
    mean = accuracy.mean(0)
    axes.plot(sent, mean, color=colour, lw=1.8, label=label, marker=marker, markevery=[-1], ms=6)
    if len(records) > 1:
        axes.fill_between(sent, accuracy.min(0), accuracy.max(0), color=colour, alpha=0.18, lw=0)


def _frame(axes: Axes, theme: Theme, lines: int) -> None:
    """Axes, units and legend."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    decades = np.log10(high / low)
    ticks = (1.0,) if decades > 2.5 else (1.0, 2.0, 5.0) if decades > 0.7 else range(1, 10)
    axes.xaxis.set_major_locator(LogLocator(subs=ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: size(x)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("bytes on the wire so far, up and down, headers included (log scale)", color=theme.ink)
    axes.set_ylabel("test accuracy", color=theme.ink)
    axes.grid(color=theme.grid, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=theme.ink, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.ink)
    assert axes.figure is not None
    place = {"loc": "outside upper left", "ncols": min(lines, 5), "frameon": False}
    axes.figure.legend(**place, labelcolor=theme.ink, handlelength=1.6)


def size(count: float) -> str:
    """A byte count for an axis: powers of 1000.

    >>> size(20_000_000)
    '20 MB'
    """
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit * 0.9995:
            return f"{count / unit:,.3g} {name}"
    return f"{count:.3g} B"
