"""`fewbits plan`: what a run would send and how long that takes, before anything runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from torch import nn

from fewbits.analysis.forecast import Forecast, Link, forecast
from fewbits.cli import options as o
from fewbits.cli.comparison import distribute
from fewbits.cli.plan_model import plan_model
from fewbits.errors import LocalError
from fewbits.files import write_atomically
from fewbits.learn.intrinsic_space import MODES
from fewbits.methods import METHODS, build
from fewbits.methods.catalogue import options
from fewbits.report.forecast import figures, terminal
from fewbits.rng import Key

DEFAULT = "dense,fedpaq,topk,lbgm,intrinsic,fedpara"
# Lines of a method one of whose layers is that one, when its option is not set.
CASES = {"intrinsic": ("mode", MODES), "fedpara": ("gamma", ("0.1", "0.3", "0.5"))}
WORDS = """
A turn is one client's in one round: it receives what it has missed, then sends. Bytes are lengths of frames that were
really encoded, with 16 bytes of header. "any update": exact whatever the data; "random update": measured on Gaussian
updates, and real ones differ; "bound": no run of this method is beyond. Seconds: of a round's transfers, all clients at
once, each with a line of {up:g} Mbit/s up and {down:g} down; no latency, no training. Server keeps: on disk, for each
client it has heard.
"""
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method", help=f"Methods, separated by commas or given again; or all. Default: {DEFAULT}.", show_default=False
    ),
]
Params = Annotated[int | None, typer.Option(help="Instead of a model: so many parameters.", show_default=False)]
Shapes = Annotated[
    Path | None,
    typer.Option(help='Instead of a model: a JSON file of {"layer.weight": [rows, columns], ...}.', show_default=False),
]


def plan(
    method: Methods = None,
    settings: o.MethodSettings = None,
    model: Annotated[str, typer.Option(help="Model; `fewbits models` lists them.")] = "mlp",
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set whose examples the model takes; it is not loaded. Default: by the model.", show_default=False
        ),
    ] = None,
    params: Params = None,
    shapes: Shapes = None,
    clients: Annotated[int, typer.Option(help="How many there are.")] = 20,
    per_round: Annotated[
        int | None, typer.Option(help="Sampled in each round; all when not given.", show_default=False)
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of communication.")] = 50,
    seed: Annotated[int, typer.Option(help="Of sampling: a run with it samples the same clients.")] = 0,
    uplink_mbps: Annotated[float, typer.Option(help="A client's line to the server, Mbit/s.")] = 10.0,
    downlink_mbps: Annotated[float, typer.Option(help="And from it.")] = 50.0,
    out: Annotated[
        Path | None, typer.Option("--json", help="Write all figures to this file.", show_default=False)
    ] = None,
) -> None:
    """Say what each method would send: bytes per client and round, seconds on a line, disk, and the whole run's total.

    Nothing is trained and no data is read: real frames are encoded from random updates of the model's shapes.
    """
    link, key = Link(uplink_mbps, downlink_mbps), Key(seed)
    names = _names(method)
    make, what = plan_model(model, data, params, shapes, key)
    sizes = (clients, per_round, rounds, key)
    lines, refused = _lines(make, names, distribute(settings or (), names), sizes, params is None and shapes is None)
    if not lines:
        raise LocalError("plan: no method fits. " + "; ".join(refused))
    console = Console()
    sampled = f"{per_round or clients:,} of {clients:,} clients in each of {rounds:,} rounds"
    console.print(f"{what}; {sampled}", markup=False, highlight=False, soft_wrap=True)
    console.print(terminal(lines, link))
    console.print(" ".join(WORDS.split()).format(up=uplink_mbps, down=downlink_mbps), style="dim", highlight=False)
    for sentence in refused:
        console.print(f"not planned: {sentence}", markup=False, style="yellow", soft_wrap=True)
    if out is not None:
        note = {"subject": what, "clients": clients, "per_round": per_round or clients, "rounds": rounds, "seed": seed}
        note |= {"uplink_mbps": uplink_mbps, "downlink_mbps": downlink_mbps, "not_planned": refused}
        note |= {"methods": [figures(line, link) for line in lines]}
        write_atomically(out, (json.dumps(note, indent=2) + "\n").encode())


def _lines(
    make: Callable[[], nn.Module],
    names: Sequence[str],
    given: Mapping[str, dict[str, str]],
    sizes: tuple[int, int | None, int, Key],
    seeded: bool,
) -> tuple[list[Forecast], list[str]]:
    """A method's lines, all compared with dense ones; and sentences about what does not fit."""
    (dense,) = forecast(make, build("dense"), *sizes, seeded=seeded)
    known = {("dense", ""): [dense]}
    lines: list[Forecast] = []
    refused: list[str] = []
    for name, case, settings in ((one, *each) for one in names for each in _cases(one, given[one])):
        try:
            found = known.get((name, case)) or forecast(make, build(name, settings), *sizes, case, seeded)
        except LocalError as error:
            refused.append(f"{name}{f', {case}' if case else ''}: {error}")
        else:
            lines += [line.against(dense) for line in found]
    return lines, refused


def _names(given: Sequence[str] | None) -> list[str]:
    """The methods, each once; LocalError names one that there is not."""
    names = list(dict.fromkeys(word for text in given or [DEFAULT] for word in o.words(text)))
    names = list(METHODS) if names == ["all"] else names
    if not names:
        raise LocalError("plan: give one method or more, such as --method dense,topk")
    for name in names:
        options(name)
    return names


def _cases(name: str, given: dict[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(what to call it, settings) of each line of a method."""
    option, values = next((case for layer, case in CASES.items() if layer in name.split("+")), ("", ()))
    if not option or option in given:
        yield ", ".join(f"{key}={value}" for key, value in given.items()), given
        return
    for value in values:
        settings = {option: value} | given
        yield ", ".join(f"{key}={value}" for key, value in settings.items()), settings
