"""`fewbits run`: a run, a comparison or a sweep, as a file describes it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from fewbits.cli import comparison, config
from fewbits.cli import options as o
from fewbits.cli.commands import COMPARE, TRAIN, compare, train, wanted
from fewbits.cli.config import RunConfig
from fewbits.cli.found_runs import found_runs
from fewbits.cli.play import SUMMARY
from fewbits.cli.report import show_tasks
from fewbits.cli.run_file import NAME, RunFile, all_options, read_run_file
from fewbits.cli.run_tables import by_task
from fewbits.cli.screen import screen
from fewbits.errors import LocalError
from fewbits.files import check_folder, write_atomically
from fewbits.methods.homes import AUTO
from fewbits.sizes import read_sizes

File = Annotated[Path, typer.Argument(help="A TOML file; its keys are the long options of train or compare.")]
Out = Annotated[
    Path | None, typer.Option(help="Folder for all files; by default the file's `out`.", show_default=False)
]
Force = Annotated[bool, typer.Option("--force", help="Replace the run that OUT holds.", show_default=False)]


def run(file: File, out: Out = None, force: Force = False) -> None:
    """Play a run file: with `method` a run, with `methods` a comparison, and with lists of values a sweep over them.

    A sweep has a folder in OUT for each combination; the same command continues one that was stopped. Every folder of
    a run holds `run.toml`, the file that makes it again.
    """
    found = read_run_file(file, TRAIN, COMPARE)
    folder = out or found.given.get("out")
    if folder is None:
        raise LocalError(f"give --out, a new folder for all files, or a line such as out = 'runs/first' in {file}")
    runs = found.runs()
    for given in runs.values():
        _check(found, given)
    if not found.varied:
        _play(found, next(iter(runs.values())), folder, force)
        return
    _claim_sweep(found, folder, force)
    try:
        for name, given in runs.items():
            _play_part(found, given, folder / name, force)
    except typer.Exit:  # stopped between rounds
        words = shlex.join(["fewbits", "run", str(file), "--out", str(folder)])
        screen().print(f"the whole sweep goes on with: {words}", markup=False, highlight=False, soft_wrap=True)
        raise
    _show_sweep(found, folder)


def _play_part(found: RunFile, given: dict[str, Any], place: Path, force: bool) -> None:
    """One combination of a sweep; what is finished already stays."""
    screen().print(f"{place.name}:", markup=False, highlight=False)
    if force or not _is_begun(place):
        _play(found, given, place, force)
    elif not (place / SUMMARY).is_file():
        _play(found, {"resume": place}, place, False)


def _show_sweep(found: RunFile, folder: Path) -> None:
    """All runs of the sweep in one report, and what can be done with them."""
    console = screen()
    console.print(f"\nAll runs of {found.path}:", markup=False, highlight=False)
    tasks = by_task(found_runs([folder]))
    at = read_sizes(found.given.get("at"))
    show_tasks(tasks, folder, console, f"The sweep of {found.path}", found.given.get("target_accuracy"), at)
    table = folder / "runs.csv"
    for line in (f"folders: one for each run, in {folder}", f"next: fewbits report {folder} --csv {table}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _check(found: RunFile, given: dict[str, Any]) -> None:
    """LocalError for a wrong value, before anything is trained."""
    if found.is_comparison:
        wanted(comparison.Comparison, all_options(COMPARE, given), given["methods"])
    elif given.get("method") != AUTO:
        RunConfig(**o.ended_by(o.configured(given))).build_method()


def _play(found: RunFile, given: dict[str, Any], folder: Path, force: bool) -> None:
    names, command = (COMPARE, compare) if found.is_comparison else (TRAIN, train)
    place = {} if "resume" in given else {"out": folder, "force": force}
    command(**all_options(names, given | place))


def _is_begun(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (config.NAME, comparison.NAME))


def _claim_sweep(found: RunFile, folder: Path, force: bool) -> None:
    """Leave the sweep's file in its folder; LocalError when that holds anything but an earlier part of this sweep."""
    check_folder(folder)
    there = folder / NAME
    if folder.exists() and any(folder.iterdir()) and not force:
        earlier = None if _is_begun(folder) or not there.is_file() else read_run_file(there, TRAIN, COMPARE)
        if earlier is None or _without_out(earlier) != _without_out(found):
            raise LocalError(f"{folder} is not empty, and holds no part of the sweep in {found.path}; give a new one")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(there, found.path.read_bytes())


def _without_out(found: RunFile) -> list[dict[str, Any]]:
    return [{name: x for name, x in given.items() if name != "out"} for given in found.runs().values()]
