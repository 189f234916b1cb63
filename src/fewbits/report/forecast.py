"""The table of forecasts for the terminal, and their figures for JSON."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fewbits.analysis.forecast import Forecast, Link
from fewbits.report.text import size, times

UNCUT = 10_000  # columns: any table fits
METHOD, BASIS = "method", "holds for"
COLUMNS: tuple[str, ...] = (
    METHOD,
    "up per\nturn",
    "down per\nturn",
    "×\nfewer",
    "s per\nround",
    "server\nkeeps",
    "run\nup",
    "run\ndown",
    BASIS,
)
GIVE_WAY = ("server\nkeeps", "s per\nround", "run\nup", "run\ndown")  # columns that may be left out, in this order


def terminal(found: Sequence[Forecast], link: Link, width: int = UNCUT) -> Table:
    """One line per method and case; bytes in powers of 1000.

    Args:
        found: the forecasts.
        link: a client's line.
        width: columns of the terminal. A wider table takes shorter words; then it loses the columns of `GIVE_WAY` one
            by one, and says which.
    """
    table = _table(found, link, COLUMNS, short=False)
    shown = list(COLUMNS)
    for name in (None, *GIVE_WAY):
        if Console(width=UNCUT).measure(table).maximum <= width:
            break
        shown = [column for column in shown if column != name]
        table = _table(found, link, shown, short=True)
    missing = ", ".join(" ".join(name.split()) for name in COLUMNS if name not in shown)
    if missing:
        table.caption, table.caption_justify = f"--json has what does not fit here: {missing}", "left"
    return table


def _table(found: Sequence[Forecast], link: Link, shown: Sequence[str], short: bool) -> Table:
    """The table of these columns; `short`: with a line for each setting, and shorter words."""
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in shown:
        heading = "holds\nfor" if short and name == BASIS else name
        right = name not in (METHOD, BASIS)
        table.add_column(heading, justify="right" if right else "left", vertical="bottom", no_wrap=True)
    for line in found:
        cells = dict(zip(COLUMNS, _cells(line, link, short), strict=True))
        table.add_row(*(cells[name] for name in shown))
    return table


def _cells(line: Forecast, link: Link, short: bool) -> list[str]:
    case = line.case.replace(", ", ",\n  ") if short else line.case
    return [
        f"{line.method}\n  {case}" if case else line.method,
        _size(line.up),
        _size(line.down),
        times(line.times_fewer),
        f"{link.seconds(line.up, line.down):.{2 if short else 3}g}",
        _size(line.server_keeps),
        _size(line.up_total),
        _size(line.down_total),
        line.basis.removesuffix(" update") if short else line.basis,
    ]


def _size(count: float) -> str:
    return size(count).replace(" ", "\N{NO-BREAK SPACE}")


def figures(line: Forecast, link: Link) -> dict[str, object]:
    """All fields of a forecast, with the figures that follow from them."""
    seconds = link.seconds(line.up, line.down)
    found: dict[str, object] = dict(vars(line))
    return found | {"up_per_turn": line.up, "down_per_turn": line.down, "seconds_per_round": seconds}
