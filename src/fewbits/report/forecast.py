"""The table of forecasts for the terminal, and their figures for JSON."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from fewbits.analysis.forecast import Forecast, Link
from fewbits.report.text import size, times

COLUMNS = (
    "method",
    "up per\nturn",
    "down per\nturn",
    "×\nfewer",
    "s per\nround",
    "server\nkeeps",
    "run\nup",
    "run\ndown",
    "holds for",
)


def terminal(found: Sequence[Forecast], link: Link) -> Table:
    """One line per method and case; bytes in powers of 1000."""
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for i, name in enumerate(COLUMNS):
        table.add_column(name, justify="left" if i in (0, len(COLUMNS) - 1) else "right", vertical="bottom")
    for line in found:
        table.add_row(*_cells(line, link))
    return table


def _cells(line: Forecast, link: Link) -> list[str]:
    return [
        f"{line.method}\n  {line.case}" if line.case else line.method,
        _size(line.up),
        _size(line.down),
        times(line.times_fewer),
        f"{link.seconds(line.up, line.down):.3g}",
        _size(line.server_keeps),
        _size(line.up_total),
        _size(line.down_total),
        line.basis,
    ]


def _size(count: float) -> str:
    return size(count).replace(" ", "\N{NO-BREAK SPACE}")


def figures(line: Forecast, link: Link) -> dict[str, object]:
    """All fields of a forecast, with the figures that follow from them."""
    seconds = link.seconds(line.up, line.down)
    found: dict[str, object] = dict(vars(line))
    return found | {"up_per_turn": line.up, "down_per_turn": line.down, "seconds_per_round": seconds}
