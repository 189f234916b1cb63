"""The picture: two heat maps of cosines, the growing rank, and accuracy against dimension."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewbits.analysis.diagnosis import Diagnosis, Directions
from fewbits.report import drawing
from fewbits.report.drawing import COLOURS, LIGHT, Theme, dress

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ORANGE, GREEN = COLOURS[0], COLOURS[1]


def png(found: Diagnosis, theme: Theme = LIGHT) -> bytes:
    """The picture as PNG; LocalError when matplotlib is missing."""
    figure = drawing.new_figure(7.4, theme)
    axes = figure.subplots(2, 2)
    part = "epochs" if found.blocks == 1 else f"1/{found.blocks} epochs"
    _heat(axes[0, 0], found.epoch, "cosines of gradients of epochs", 1, theme)
    _heat(axes[0, 1], found.block, f"cosines of gradients of {part}", found.blocks, theme)
    _rank(axes[1, 0], found, theme)
    _accuracy(axes[1, 1], found, theme)
    return drawing.png(figure, theme)


def _heat(axes: Axes, found: Directions, title: str, per_epoch: int, theme: Theme) -> None:
    """Orange for opposed, the page's colour for orthogonal, blue for alike; both axes count whole epochs."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import MaxNLocator

    colours = LinearSegmentedColormap.from_list("cosine", [ORANGE, theme.paper, theme.blue])
    end = len(found.cosines) / per_epoch
    image = axes.imshow(
        found.cosines, cmap=colours, vmin=-1, vmax=1, extent=(0.5, end + 0.5, end + 0.5, 0.5), interpolation="nearest"
    )
    for locate in (axes.xaxis, axes.yaxis):
        locate.set_major_locator(MaxNLocator(6, integer=True, prune="lower" if end > 6 else None))
    dress(axes, theme, "epoch", title, "epoch", grid=False)
    assert axes.figure is not None
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.8, ticks=[-1, 0, 1])
    bar.ax.tick_params(colors=theme.ink, length=0)
    bar.outline.set_edgecolor(theme.grid)  # pyright: ignore[reportCallIssue] - a Spine, whatever the stubs say


def _rank(axes: Axes, found: Diagnosis, theme: Theme) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = range(1, found.epochs + 1)
    axes.plot(epochs, epochs, color=theme.ink, lw=1, ls=":", label="all different")
    for i, (share, colour, marker) in enumerate((("99%", theme.blue, "o"), ("95%", ORANGE, "s"))):
        counts = [pair[1 - i] for pair in found.growth]
        axes.plot(epochs, counts, color=colour, lw=1.8, marker=marker, markevery=[-1], ms=6, label=share)
    for locate in (axes.xaxis, axes.yaxis):
        locate.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, labelcolor=theme.ink, title=None)
    dress(axes, theme, "epochs so far", "components for a share of the variance", "principal components")


def _accuracy(axes: Axes, found: Diagnosis, theme: Theme) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    dims = [point.dim for point in found.points]
    axes.plot(dims, [point.accuracy for point in found.points], color=theme.blue, lw=1.8, marker="o", ms=4.5)
    axes.axhline(found.accuracy, color=GREEN, lw=1.4, label="all parameters")
    axes.axhline(0.9 * found.accuracy, color=GREEN, lw=1.2, ls="--", label="90% of that")
    if found.d90 is not None:
        reached = next(point.accuracy for point in found.points if point.dim == found.d90)
        axes.plot([found.d90], [reached], color=ORANGE, marker="D", ms=8, ls="", label=f"d = {found.d90:,}", zorder=3)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    drawing.percent(axes.yaxis)
    axes.set_ylim(0, 1.03)
    axes.legend(frameon=False, labelcolor=theme.ink, loc="lower right")
    dress(axes, theme, "d (log scale)", "training along d random directions", "test accuracy")
