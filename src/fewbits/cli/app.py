"""The command line: all commands."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from click import Context
from typer.core import TyperGroup

from fewbits.cli import commands, demo, diagnose, export, flower, inspect, lists, plan
from fewbits.cli.gossip import gossip
from fewbits.cli.screen import believe_columns, screen, write_anything
from fewbits.errors import FewbitsError, LocalError
from fewbits.links.store import StoreError


class ErrorGroup(TyperGroup):
    """Prints an error of fewbits as one sentence; the exit code is 2 for the caller's mistakes, else 1."""

    def main(self, *args: Any, **options: Any) -> Any:
        write_anything()
        believe_columns()
        return super().main(*args, **options)

    def invoke(self, ctx: Context) -> object:
        try:
            return super().invoke(ctx)
        except FewbitsError as error:
            _complain(error)
            ctx.exit(2 if isinstance(error, LocalError) else 1)
        except BrokenPipeError:
            raise  # the reader of a pipe has seen enough; click ends without a word
        except (OSError, StoreError) as error:  # a wrong path, no permission, a full disk
            _complain(error)
            ctx.exit(1)


def _complain(error: Exception) -> None:
    sentence = f"fewbits: {error}"
    screen(stderr=True).print(sentence, style="red", markup=False, highlight=False, soft_wrap=True)


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
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train one model across many machines while sending almost nothing, and count every byte."""


app.command()(commands.train)
app.command()(commands.compare)
app.command()(gossip)
app.command()(demo.demo)
app.command()(diagnose.diagnose)
app.command()(plan.plan)
app.command("inspect")(inspect.inspect)
app.command("export")(export.export)
app.command("methods")(lists.methods)
app.add_typer(flower.app)
app.command("data")(lists.data_sets)
app.command("models")(lists.models)


def main() -> None:
    """The console script."""
    app()
