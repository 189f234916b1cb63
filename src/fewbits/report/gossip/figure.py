"""The picture: accuracy against bytes, the consensus distance, and the graph coloured by bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fewbits.errors import LocalError
from fewbits.report.figure import COLOURS, DPI, LIGHT, MARKERS, Theme, size
from fewbits.report.gossip.record import GossipRecord
from fewbits.topology import Topology, layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GRAPHS = 4  # methods whose graph is drawn, the first ones


def png(records: Sequence[GossipRecord], graph: Topology, theme: Theme = LIGHT) -> bytes:
    """The picture as PNG; lines are means over seeds. LocalError when matplotlib or networkx is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise LocalError("the picture needs matplotlib; pip install fewbits[report]") from None
    methods = list(dict.fromkeys(record.method for record in records))
    shown = methods[:GRAPHS]
    figure = Figure(figsize=(8, 7.4), dpi=DPI, layout="constrained", facecolor=theme.paper)
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.3, 1), facecolor=theme.paper)  # stubs say that it is one
    above, below = parts
    left, right = above.subplots(1, 2)
    for i, method in enumerate(methods):
        runs = [r for r in records if r.method == method]
        colour = (theme.blue, *COLOURS)[i % (1 + len(COLOURS))]
        _accuracy(left, runs, colour, MARKERS[i % len(MARKERS)])
        _consensus(right, runs, method, colour)
    _dress(left, "test accuracy, mean over nodes", "bytes of all frames, each counted once", theme)
    _dress(right, "consensus distance |X - mean|", "round", theme)
    _scales(left, right)
    above.legend(loc="outside upper left", ncols=min(len(methods), 5), frameon=False, labelcolor=theme.ink)
    positions = layout(graph)
    for axes, method in zip(np.atleast_1d(below.subplots(1, len(shown))), shown, strict=True):
        node_bytes = [r.node_bytes for r in records if r.method == method]
        _graph(axes, graph, positions, np.mean(node_bytes, 0), method, theme)
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor=theme.paper)
    return out.getvalue()


def _accuracy(axes: Axes, records: Sequence[GossipRecord], colour: str, marker: str) -> None:
    curves = [record.curve for record in records if record.curve]
    if not curves:
        return
    shared = set.intersection(*({n for n, _, _ in curve} for curve in curves))
    points = np.array([[(sent, accuracy) for n, sent, accuracy in curve if n in shared] for curve in curves])
    sent, accuracy = points[:, :, 0].mean(0), points[:, :, 1]
    axes.plot(sent, accuracy.mean(0), color=colour, lw=1.8, marker=marker, markevery=[-1], ms=6)
    if len(curves) > 1:
        axes.fill_between(sent, accuracy.min(0), accuracy.max(0), color=colour, alpha=0.18, lw=0)


def _consensus(axes: Axes, records: Sequence[GossipRecord], label: str, colour: str) -> None:
    rounds = min(len(record.reports) for record in records)
    values = np.array([[report.consensus for report in record.reports[:rounds]] for record in records]).mean(0)
    axes.plot(np.arange(1, rounds + 1), np.maximum(values, 1e-12), color=colour, lw=1.8, label=label)


def _dress(axes: Axes, title: str, below: str, theme: Theme) -> None:
    axes.set_facecolor(theme.paper)
    axes.set_title(title, color=theme.ink, fontsize=10, loc="left")
    axes.set_xlabel(below, color=theme.ink, fontsize=9)
    axes.grid(color=theme.grid, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=theme.ink, length=0, labelsize=8)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.ink)


def _scales(left: Axes, right: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

    left.set_xscale("log")
    decades = np.log10(left.get_xlim()[1] / left.get_xlim()[0])
    left.xaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 1.5 else (1.0, 3.0)))
    left.xaxis.set_major_formatter(FuncFormatter(lambda x, _: size(x)))
    left.xaxis.set_minor_formatter(NullFormatter())
    left.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    right.set_yscale("log")


def _graph(axes: Axes, graph: Topology, positions: np.ndarray, sent: np.ndarray, title: str, theme: Theme) -> None:
    """Draw the edges, and the nodes coloured by the bytes they sent; each frame counts once."""
    from matplotlib.collections import LineCollection

    lines = [(positions[i], positions[j]) for i, j in graph.edges]
    axes.add_collection(LineCollection(lines, colors=theme.ink, alpha=0.25, linewidths=1.0, zorder=1))
    dots = axes.scatter(*positions.T, c=sent, cmap="cividis", s=max(12, 900 / max(10, graph.n)), zorder=2)
    low, high = float(sent.min()), float(sent.max())
    if high <= low * 1.001:
        dots.set_clim(low * 0.9, high * 1.1 + 1)
    axes.set_facecolor(theme.paper)
    axes.set_axis_off()
    axes.set_title(f"{title}: {size(low)} to {size(high)} a node", color=theme.ink, fontsize=9)
    axes.set_aspect("equal", "datalim")
