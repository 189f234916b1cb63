"""The command line: all commands."""

from __future__ import annotations

import gc
import sys
from typing import Annotated

import typer

from fewbits.cli import commands, demo, diagnose, export, flower, inspect, lists, plan, recommend, report, run
from fewbits.cli.gossip import gossip
from fewbits.cli.group import ErrorGroup
from fewbits.ctrl_c import listen

app = typer.Typer(
    cls=ErrorGroup,
    name="fewbits",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fewbits {sys.modules['fewbits'].__version__}")
        raise typer.Exit


@app.callback()
def face(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train one model across many machines while sending almost nothing, and count every byte."""


app.command()(commands.train)
app.command()(commands.compare)
app.command()(run.run)
app.command()(report.report)
app.command()(gossip)
app.command()(demo.demo)
app.command()(diagnose.diagnose)
app.command()(plan.plan)
app.command()(recommend.recommend)
app.command("inspect")(inspect.inspect)
app.command("export")(export.export)
app.command("methods")(lists.methods)
app.add_typer(flower.app)
app.command("data")(lists.data_sets)
app.command("models")(lists.models)


def main() -> None:
    """The console script."""
    gc.freeze()  # what was imported stays: neither this process nor its workers need to go over it
    gc.enable()
    listen()
    app()
