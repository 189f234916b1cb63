"""`fewbits methods`, `fewbits data`, `fewbits models`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fewbits.cli.screen import screen
from fewbits.data.load import INFO
from fewbits.methods import METHODS
from fewbits.methods.catalogue import OVER, layers, options, source
from fewbits.methods.downlink import DOWNLINKS
from fewbits.methods.gossip import GOSSIP
from fewbits.methods.gossip import options as gossip_options
from fewbits.methods.meaning import meanings
from fewbits.methods.text import Options
from fewbits.models.build import MODELS
from fewbits.replicas.noloco import RANK_METHODS
from fewbits.replicas.noloco import options as rank_options

Names = Annotated[str | None, typer.Argument(help="One method, such as lbgm+topk.", metavar="[NAME]")]


def methods(name: Names = None) -> None:
    """List the methods, with a server, without, and for ranks; their options with defaults, and their papers.

    With a NAME, show that one method, and what each of its options means; with `down`, the ways to the clients.
    """
    console = screen()
    if name == "down" or (name in DOWNLINKS and name not in METHODS):
        console.print(_downlinks())
        return
    if name is not None:
        _show(name.partition("@")[0], console)
        return
    console.print(_methods("method", METHODS, options))
    console.print(_methods("fewbits gossip", GOSSIP, gossip_options))
    console.print(_methods("ranks alone", RANK_METHODS, rank_options))
    lines = ("What the options of one mean: fewbits methods NAME", "What down= may be: fewbits methods down")
    for line in lines:
        console.print(line, markup=False, highlight=False)


def _show(name: str, console: Console) -> None:
    """One method: what it does, its options, and its paper."""
    if name in GOSSIP:
        makers: Sequence[Callable[..., object]] = [GOSSIP[name]]
        known, command = gossip_options(name), "gossip"
    elif name in RANK_METHODS:
        makers = [RANK_METHODS[name]]
        known, command = rank_options(name), "plan --bandwidth 100Mbit"
    else:
        known, makers, command = options(name), layers(name), "train"
    said = meanings(makers)
    papers = "; ".join(filter(None, dict.fromkeys(map(source, makers))))
    for line in (f"{name}: {_first(makers[0])}", f"Paper: {papers}."):
        console.print(line, markup=False, highlight=False)
    if name in OVER and len(makers) == 2:
        console.print(f"It stands over {makers[1].__name__}; over another method: {name}+topk.", highlight=False)
    example = f"fewbits {command} --method {name}"
    if known:
        table = _table("option", "default", "meaning")
        for option, default in known.items():
            table.add_row(option, short(default), Text(said.get(option, "")))
        console.print(table)
        option, default = next(iter(known.items()))
        example += f"@{option}={short(default)}" if str(default) else ""
    example += f" --out runs/{name.replace('+', '-')}" if name not in RANK_METHODS else ""
    console.print(example, markup=False, highlight=False, soft_wrap=True)


def _downlinks() -> Table:
    """What the server sends to a client, by name."""
    table = _table("down=", "what a client gets")
    for name, what in DOWNLINKS.items():
        table.add_row(name, what)
    return table


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
        settings = "\n".join(f"{option}={short(default)}" for option, default in options(name).items())
        table.add_row(name, _first(make), settings, source(make))
    return table


def _first(documented: object) -> str:
    return (documented.__doc__ or "").strip().split("\n")[0]


def short(default: object) -> str:
    """A default as a table shows it."""
    return f"{default:.4g}" if isinstance(default, float) else str(default)


def _table(*names: str) -> Table:
    table = Table(header_style="bold", show_lines=len(names) > 2)
    for i, name in enumerate(names):
        table.add_column(name, style="bold" if i == 0 else "", no_wrap=i == 0)
    return table
