"""Tables of a terminal, fitted to 80 columns."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 80  # of a terminal


def fitted(
    columns: Mapping[str, Sequence[str]],
    give_way: Sequence[str] = (),
    below: Sequence[str] = (),
    unsaid: Sequence[str] = (),
) -> Table:
    """A table for a terminal, fitted to 80 columns. A line below it names the columns that are left out.

    Args:
        columns: the texts of each column, heading first.
        give_way: columns that may be left out, in this order.
        below: lines below the table.
        unsaid: columns that nobody misses.
    """
    shown = {name: ["\n".join(heading.rsplit(" ", 1)), *rest] for name, (heading, *rest) in columns.items()}
    for name in give_way:
        if name in shown and _width(shown) > WIDTH:
            del shown[name]
    missed = [name for name in columns if name not in shown and name not in unsaid]
    apart = 1 if _width(shown) <= WIDTH else 0  # in addition to the box's space
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 0, 0, apart), pad_edge=False)
    for name, (heading, *_) in shown.items():
        table.add_column(heading, justify="left" if name == "method" else "right", no_wrap=True, vertical="bottom")
    for row in list(zip(*shown.values(), strict=True))[1:]:
        table.add_row(*row)
    if lines := [*below, *([f"Left out, as {WIDTH} columns are too few: {', '.join(missed)}"] * bool(missed))]:
        table.caption, table.caption_justify, table.caption_style = Text("\n".join(lines)), "left", ""
    return table


def printed(table: Table) -> str:
    """The table as a terminal of 80 columns shows it, without colours."""
    out = io.StringIO()
    Console(file=out, width=WIDTH, color_system=None).print(table)
    return out.getvalue()


def two_lines(text: str) -> str:
    """A long name of a method, broken where it gets narrower: at its options or settings, or else at its first plus."""
    marks = [mark for mark in ("@", " (") if mark in text] or ["+"]
    broken = [text.replace(mark, f"\n{mark.strip()}", 1) for mark in marks]
    return min(broken, key=lambda name: max(map(len, name.split("\n"))))


def _width(texts: Mapping[str, Sequence[str]]) -> int:
    """Of the table with two spaces between columns."""
    return sum(2 + max(len(line) for text in column for line in text.split("\n")) for column in texts.values())
