"""`fewbits flower`: a small project for `flwr run`, and a check of a SuperLink's certificate."""

from __future__ import annotations

import shlex
from importlib.resources import files
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from fewbits.checks import check_one_of
from fewbits.cli.group import ErrorGroup
from fewbits.cli.handshake import handshake
from fewbits.cli.screen import screen
from fewbits.engines.common import flower_version
from fewbits.errors import LocalError
from fewbits.files import check_folder

app = typer.Typer(cls=ErrorGroup, name="flower", help="Federations over Flower.", no_args_is_help=True)


class Template(NamedTuple):
    """What a project is made of."""

    package: str  # of the project
    source: str  # folder in fewbits/cli
    about: str  # docstring of the package
    extras: str  # of fewbits, that the project needs


TEMPLATES = {
    "digits": Template("digits_app", "flower_app", "Digits over Flower.", "flower,data"),
    "lm": Template("lm_app", "flower_lm_app", "A language model with LoRA over Flower.", "flower,peft"),
}
TOP, MODULES = ("pyproject.toml", "README.md"), ("task.py", "client_app.py", "server_app.py")

FEDERATIONS = """
[tool.flwr.federations]  # read by Flower before 1.26; a newer one reads $FLWR_HOME/config.toml
default = "local-simulation"

[tool.flwr.federations.local-simulation]
options.num-supernodes = 2
"""


@app.callback()
def flower() -> None:
    """Federations over Flower."""


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(help="Folder of the project; must be new or empty.", metavar="DIR")],
    template: Annotated[
        str, typer.Option(help="digits: a small network; lm: a causal language model with LoRA by PEFT.")
    ] = "digits",
) -> None:
    """Write a small project for `flwr run`, in Flower's simulation or on several machines."""
    check_one_of("--template", template, tuple(TEMPLATES))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LocalError(f"{folder} exists and is not an empty folder; give a new one")
    check_folder(folder)
    chosen = TEMPLATES[template]
    package, source = folder / chosen.package, files("fewbits.cli").joinpath(chosen.source)
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f'"""{chosen.about}"""\n')
    for place in (*(folder / name for name in TOP), *(package / name for name in MODULES)):
        place.write_text(source.joinpath(f"{place.name}.txt").read_text())
    found = flower_version.installed()
    if found and flower_version.release(found) < flower_version.APP_NAMES_FEDERATIONS:
        with (folder / "pyproject.toml").open("a") as file:
            file.write(FEDERATIONS)
    _say(f"wrote {folder}; next: cd {shlex.quote(str(folder))} && flwr run . --stream")
    if found is None:
        _say(f"Flower is not installed yet: pip install 'fewbits[{chosen.extras}]'")


def _say(line: str) -> None:
    screen().print(line, markup=False, highlight=False, soft_wrap=True)


@app.command()
def check(
    address: Annotated[str, typer.Argument(help="HOST:PORT of the SuperLink.", metavar="ADDRESS")],
    authority: Annotated[
        Path, typer.Option("--root-certificates", help="The PEM file that the SuperNodes get.", exists=True)
    ],
) -> None:
    """Try a SuperNode's TLS handshake; when it fails, print the SuperLink's certificate and those of the file."""
    _say(handshake(address, authority))
