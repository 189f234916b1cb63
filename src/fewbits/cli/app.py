"""The command line: all commands."""

from __future__ import annotations

import typer
from click import Context
from rich.console import Console
from typer.core import TyperGroup

from fewbits.cli import commands, demo, diagnose, export, flower, inspect, lists, plan
from fewbits.cli.gossip import gossip
from fewbits.errors import FewbitsError, LocalError
from fewbits.links.store import StoreError


class ErrorGroup(TyperGroup):
    """Prints an error of fewbits as one sentence; the exit code is 2 for the caller's mistakes, else 1."""

    def invoke(self, ctx: Context) -> object:
        try:
            return super().invoke(ctx)
        except FewbitsError as error:
            Console(stderr=True).print(f"fewbits: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
            ctx.exit(2 if isinstance(error, LocalError) else 1)
        except (OSError, StoreError) as error:  # a wrong path, no permission, a full disk
            said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else error
            Console(stderr=True).print(f"fewbits: {said}", style="red", markup=False, highlight=False, soft_wrap=True)
            ctx.exit(1)


app = typer.Typer(
    cls=ErrorGroup,
    name="fewbits",
    help="Train one model across many machines while sending almost nothing, and count every byte.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
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
