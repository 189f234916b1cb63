"""The picture: accuracy against bytes, the consensus distance, and the graph coloured by bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fewbits.report import drawing
from fewbits.report.drawing import LIGHT, Theme
from fewbits.report.gossip.record import GossipRecord
from fewbits.report.text import size
from fewbits.topology import Topology, layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GRAPHS = 4  # methods whose graph is drawn, the first ones


def png(records: Sequence[GossipRecord], graph: Topology, theme: Theme = LIGHT) -> bytes:
    """The picture as PNG; lines are means over seeds. LocalError when matplotlib or networkx is missing."""
    figure = drawing.new_figure(7.4, theme)
    methods = {record.method: [r for r in records if r.method == record.method] for record in records}
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.3, 1), facecolor=theme.paper)  # stubs say that it is one
    above, below = parts
    left, right = above.subplots(1, 2)
    for i, (method, runs) in enumerate(methods.items()):
        style = theme.line(i)
        drawing.accuracy_curves(left, [record.curve for record in runs], method, style)
        _consensus(right, runs, method, style[0])
    drawing.dress(left, theme, "bytes of all frames, each counted once", "test accuracy, mean over nodes")
    drawing.dress(right, theme, "round", "consensus distance |X - mean|")
    if any(record.curve for record in records):
        drawing.bytes_axis(left, room=0.5)
    drawing.percent(left.yaxis)
    right.set_yscale("log")
    handles, labels = right.get_legend_handles_labels()
    place = {"loc": "outside upper left", "ncols": min(len(methods), 5), "frameon": False}
    above.legend(handles, labels, **place, labelcolor=theme.ink)
    shown, positions = list(methods)[:GRAPHS], layout(graph)
    for axes, method in zip(np.atleast_1d(below.subplots(1, len(shown))), shown, strict=True):
        _graph(axes, graph, positions, np.mean([r.node_bytes for r in methods[method]], 0), method, theme)
    return drawing.png(figure, theme)


def _consensus(axes: Axes, records: Sequence[GossipRecord], label: str, colour: str) -> None:
    rounds = min(len(record.reports) for record in records)
    values = np.array([[_number(report.consensus) for report in record.reports[:rounds]] for record in records])
    mean = np.maximum(values.mean(0), 1e-12)
    axes.plot(np.arange(1, rounds + 1), mean, color=colour, lw=1.8, label=label)


def _number(x: float | None) -> float:
    """As matplotlib takes it: a gap where there is none."""
    return np.nan if x is None else x


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
