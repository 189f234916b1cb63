"""`fewbits methods`, `fewbits data`, `fewbits models`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rich.table import Table

from fewbits.cli.screen import screen
from fewbits.data.load import INFO
from fewbits.methods import METHODS
from fewbits.methods.catalogue import options, source
from fewbits.methods.gossip import GOSSIP
from fewbits.methods.gossip import options as gossip_options
from fewbits.methods.text import Options
from fewbits.models.build import MODELS


def methods() -> None:
    """List the methods, with a server and without, their options with defaults, and their papers."""
    console = screen()
    console.print(_methods("method", METHODS, options))
    console.print(_methods("fewbits gossip", GOSSIP, gossip_options))


def data_sets() -> None:
    """List the data sets and where their files come from."""
    table = _table("data set", "what it is")
    for name, info in INFO.items():
        table.add_row(name, info.source)
    screen().print(table)


def models() -> None:
    """List the models."""
    table = _table("model", "what it is")
    for name, entry in MODELS.items():
        table.add_row(name, _first(entry.make))
    screen().print(table)


def _methods(heading: str, catalogue: Mapping[str, Callable[..., object]], options: Options) -> Table:
    table = _table(heading, "what it does", "options (--set)", "paper")
    for name, make in catalogue.items():
        settings = "\n".join(f"{option}={default}" for option, default in options(name).items())
        table.add_row(name, _first(make), settings, source(make))
    return table


def _first(documented: object) -> str:
    return (documented.__doc__ or "").strip().split("\n")[0]


def _table(*names: str) -> Table:
    table = Table(header_style="bold", show_lines=len(names) > 2)
    for i, name in enumerate(names):
        table.add_column(name, style="bold" if i == 0 else "", no_wrap=i == 0)
    return table
