"""What all pictures share: colours, a figure, axes, and the PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fewbits.errors import LocalError
from fewbits.report.text import size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any colour vision tell apart, without the yellow: it is too pale on white.
COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
MARKERS = "osD^vPX"
DPI = 150
Curve = list[tuple[int, int, float]]  # (round, bytes so far, accuracy)


@dataclass(frozen=True)
class Theme:
    """Colours that differ between light and dark screens."""

    paper: str
    ink: str
    grid: str
    blue: str  # of the first line; Okabe and Ito's is too dark for a dark page

    def line(self, i: int) -> tuple[str, str]:
        """Colour and marker of the i-th line."""
        colours = (self.blue, *COLOURS)
        return colours[i % len(colours)], MARKERS[i % len(MARKERS)]


MOST = 1e300  # a larger value is drawn as this one: sums and differences stay among the floats
LIGHT = Theme(paper="#ffffff", ink="#24292f", grid="#e4e7eb", blue="#0072B2")
DARK = Theme(paper="#16191e", ink="#d7dce2", grid="#2c323a", blue="#6CA8FF")


def new_figure(height: float, theme: Theme) -> Figure:
    """An empty figure of 8 inches by `height`, which notebooks show; LocalError when matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise LocalError("the picture needs matplotlib; pip install 'fewbits[report]'") from None

    class Shown(Figure):
        """A figure that a notebook shows whether pyplot was imported or not."""

        def _repr_png_(self) -> bytes:
            return png(self, theme)

    return Shown(figsize=(8, height), dpi=DPI, layout="constrained", facecolor=theme.paper)


def png(figure: Figure, theme: Theme) -> bytes:
    """The figure as PNG. It is drawn once: `savefig` draws it a first time to lay it out, which drawing does itself."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)
    return out.getvalue()


def dress(axes: Axes, theme: Theme, below: str, title: str = "", left: str = "", grid: bool = True) -> None:
    """Colours, labels and grid; of the frame, only the lower line is left."""
    axes.set_facecolor(theme.paper)
    axes.set_title(title, color=theme.ink, fontsize=10.5, loc="left")
    axes.set_xlabel(below, color=theme.ink)
    axes.set_ylabel(left, color=theme.ink)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=theme.ink, length=0)
    if grid:
        axes.grid(color=theme.grid, lw=0.8)
    for side, spine in axes.spines.items():
        spine.set_visible(grid and side == "bottom")
        spine.set_color(theme.ink)


def accuracy_curves(axes: Axes, curves: list[Curve], label: str, style: tuple[str, str]) -> None:
    """Accuracy against bytes: the mean over seeds at equal rounds, and a band from the least to the greatest.

    Seeds without a common round have a line each.
    """
    curves = [curve for curve in curves if curve]
    if not curves:
        return
    colour, marker = style
    shared = set.intersection(*({n for n, _, _ in curve} for curve in curves))
    if not shared:
        for i, curve in enumerate(curves):
            accuracy_curves(axes, [curve], "" if i else label, style)
        return
    points = np.array([[(sent, accuracy) for n, sent, accuracy in curve if n in shared] for curve in curves])
    sent, accuracy = points[:, :, 0].mean(0), points[:, :, 1].clip(-MOST, MOST)  # (rounds,), (seeds, rounds)
    axes.plot(sent, accuracy.mean(0), color=colour, lw=1.8, label=label, marker=marker, markevery=[-1], ms=6)
    if len(curves) > 1:
        axes.fill_between(sent, accuracy.min(0), accuracy.max(0), color=colour, alpha=0.18, lw=0)


def against_bytes(
    curves: Sequence[tuple[str, Curve]], what: str, theme: Theme = LIGHT, counted: str = "both directions"
) -> Figure:
    """A value against bytes, one line per method; several curves of a method become their mean and a band.

    Args:
        curves: (method, curve) of every run; one that is called "" has no legend.
        what: the name of the value.
        theme: colours.
        counted: which bytes.

    Raises:
        LocalError: matplotlib is missing, or all curves are empty.
    """
    figure = new_figure(4.8, theme)
    if not any(curve for _, curve in curves):
        raise LocalError("there is no picture: no run was evaluated")
    axes = figure.add_subplot()
    methods = list(dict.fromkeys(method for method, _ in curves))
    for i, method in enumerate(methods):
        accuracy_curves(axes, [curve for name, curve in curves if name == method], method, theme.line(i))
    bytes_axis(axes)
    if what == "test accuracy":
        percent(axes.yaxis)
    below = f"bytes sent so far, {counted}, headers included (log scale)"
    dress(axes, theme, below, left=what)
    if any(methods):
        place = {"loc": "outside upper left", "ncols": min(len(methods), 5), "frameon": False}
        figure.legend(**place, labelcolor=theme.ink, handlelength=1.6)
    return figure


def bytes_axis(axes: Axes, room: float = 1.0) -> None:
    """A log scale of bytes; `room`: the part of the picture's width that the axis has."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    decades = np.log10(high / low) / room
    ticks = (1.0,) if decades > 2.5 else (1.0, 2.0, 5.0) if decades > 0.7 else tuple(map(float, range(1, 10)))
    axes.xaxis.set_major_locator(LogLocator(subs=ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: size(x)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def percent(axis: Axis) -> None:
    """Shares as per cent, with as many decimals as the ticks need."""
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=None))
