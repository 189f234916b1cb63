"""A table as notebooks show it, and the lines below it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from fewbits.report.page import Grid, table

MOST = 5  # lines below a table


def cell(grid: Grid, lines: Sequence[str]) -> str:
    """HTML of a table and the first lines below it; all of it is escaped.

    >>> cell([["rounds"], ["3"]], ["a < b"]).endswith("<ul><li>a &lt; b</li></ul>")
    True
    """
    items = "".join(f"<li>{escape(line)}</li>" for line in first(lines))
    return table(grid) + (f"<ul>{items}</ul>" if items else "")


def first(lines: Sequence[str]) -> list[str]:
    """The first lines, and how many more there are.

    >>> first(["a"] * 7)[-1]
    '... and 2 more in notes'
    """
    return [*lines[:MOST], *[f"... and {len(lines) - MOST} more in notes"] * (len(lines) > MOST)]
