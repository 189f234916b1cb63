"""`fewbits flower`: a small project for `flwr run`, and a check of a SuperLink's certificate."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from fewbits.cli.group import ErrorGroup
from fewbits.cli.handshake import handshake
from fewbits.cli.screen import screen
from fewbits.errors import LocalError

app = typer.Typer(cls=ErrorGroup, name="flower", help="Federations over Flower.", no_args_is_help=True)
PACKAGE = "digits_app"
PLACES = {  # in the project, by what lies in fewbits/cli/flower_app
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "task.py": f"{PACKAGE}/task.py",
    "client_app.py": f"{PACKAGE}/client_app.py",
    "server_app.py": f"{PACKAGE}/server_app.py",
}


@app.callback()
def flower() -> None:
    """Federations over Flower."""


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(help="Folder of the project; must be new or empty.", metavar="DIR")],
) -> None:
    """Write a small project for `flwr run`, in Flower's simulation or on several machines."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LocalError(f"{folder} exists and is not an empty folder; give a new one")
    (folder / PACKAGE).mkdir(parents=True)
    (folder / PACKAGE / "__init__.py").write_text('"""Digits over Flower."""\n')
    for name, place in PLACES.items():
        (folder / place).write_text(files("fewbits.cli").joinpath("flower_app", f"{name}.txt").read_text())
    console = screen()
    console.print(
        f"wrote {folder}; next: cd {folder} && flwr run . --stream", markup=False, highlight=False, soft_wrap=True
    )


@app.command()
def check(
    address: Annotated[str, typer.Argument(help="HOST:PORT of the SuperLink.", metavar="ADDRESS")],
    authority: Annotated[
        Path, typer.Option("--root-certificates", help="The PEM file that the SuperNodes get.", exists=True)
    ],
) -> None:
    """Try a SuperNode's TLS handshake; when it fails, print the SuperLink's certificate and those of the file."""
    screen().print(handshake(address, authority), markup=False, highlight=False, soft_wrap=True)
