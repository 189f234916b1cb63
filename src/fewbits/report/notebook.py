"""A table as notebooks show it."""

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
    more = [f"... and {len(lines) - MOST} more in notes"] * (len(lines) > MOST)
    items = "".join(f"<li>{escape(line)}</li>" for line in [*lines[:MOST], *more])
    return table(grid) + (f"<ul>{items}</ul>" if items else "")
