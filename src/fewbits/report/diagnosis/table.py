"""The tables of a diagnosis: made once as text, shown by the terminal and by the page."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from fewbits.analysis.diagnosis import Advice, Diagnosis, Directions

Grid = list[list[str]]  # the first row is the heading, the first column the row's name


def gradients(found: Diagnosis) -> Grid:
    """Rank and repetition of both sequences."""
    threshold = found.epoch.threshold
    head = [
        "gradients over",
        "how many",
        "for 95%",
        "for 99%",
        "unit 95%",
        "unit 99%",
        "next cos",
        f"LBGM {threshold:g}",
    ]
    part = "an epoch" if found.blocks == 1 else f"1/{found.blocks} epoch"
    return [head, _row("an epoch", found.epoch), _row(part, found.block)]


def _row(name: str, found: Directions) -> list[str]:
    counts = [len(found.shares), found.n95, found.n99, found.unit_n95, found.unit_n99]
    return [name, *map(str, counts), f"{found.neighbours:.2f}", f"{found.recycled:.0%}"]


def dimensions(found: Diagnosis) -> Grid:
    """Accuracy against dimension, the full training last."""
    rows = [["dimension", "times fewer", "accuracy", "of full", "lr of s", "step", "isotropy"]]
    for point in found.points:
        fewer, step = found.parameters / point.dim, found.effective_step(point)
        share = point.accuracy / found.accuracy if found.accuracy else 0.0
        cells = [f"{fewer:.3g}", f"{point.accuracy:.1%}", f"{share:.1%}", f"{point.lr:.3g}", f"{step:.3g}"]
        rows.append([f"{point.dim:,}", *cells, f"{point.isotropy:.2f}"])
    return [*rows, [f"{found.parameters:,} (all)", "1", f"{found.accuracy:.1%}", "100.0%", "", f"{found.lr:.3g}", ""]]


def suggestions(advice: Sequence[Advice]) -> Grid:
    """Method, verdict, reason."""
    return [["method", "suggested", "why"], *([a.method, "yes" if a.fits else "no", a.why] for a in advice)]


def intrinsic(found: Diagnosis) -> str:
    """The intrinsic dimension as a sentence."""
    parts = []
    for share, dim in ((90, found.d90), (99, found.d99)):
        tried = [point.dim for point in found.points]
        if dim is None:
            parts.append(f"{share}% of it is not reached by {max(tried, default=0):,} directions")
        else:
            below = max((d for d in tried if d < dim), default=0)
            parts.append(f"{share}% of it takes {dim:,} ({below:,} do not reach it)")
    return f"Full accuracy {found.accuracy:.1%}; " + "; ".join(parts) + "."


def terminal(grid: Grid, title: str, text: bool = False) -> Table:
    """A grid for the terminal; `text`: the last column is prose."""
    table = Table(header_style="bold", box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    for i, heading in enumerate(grid[0]):
        prose = text and i == len(grid[0]) - 1
        right = not text and i > 0
        table.add_column(heading, justify="right" if right else "left", no_wrap=not prose and i == 0)
    for row in grid[1:]:
        table.add_row(*row)
    return table
