"""What summary.json says of a run that a call of Python's made, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote

from fewbits.checks import shown
from fewbits.cli.config import read_json
from fewbits.errors import LocalError
from fewbits.report.write import FIGURES

OF_COMPARISON = re.compile(r"(.+)-seed(\d+)")  # the name of a folder that a comparison made


@dataclass(frozen=True)
class RunFigures:
    """A run's method, seed and figures; `notes` say why the folder's name stands for some of them."""

    method: str
    seed: int
    figures: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def run_figures(folder: Path) -> RunFigures:
    """Of the run in a folder; those of fb.compare stand one folder up."""
    by_name = _by_name(folder)
    try:
        if (folder / FIGURES).is_file():
            return _alone(folder / FIGURES)
        if OF_COMPARISON.fullmatch(folder.name) and (folder.parent / FIGURES).is_file():
            return _of_several(folder.parent / FIGURES, by_name)
    except LocalError as error:
        said = f"{error}. The folder's name stands for the method and the seed: {by_name.method}, {by_name.seed}"
        return replace(by_name, notes=(said,))
    return by_name


def _by_name(folder: Path) -> RunFigures:
    """What the folder's name says.

    >>> _by_name(Path("runs/topk-seed3"))
    RunFigures(method='topk', seed=3, figures={}, notes=())
    """
    named = OF_COMPARISON.fullmatch(folder.name)
    return RunFigures(folder.name, 0) if named is None else RunFigures(unquote(named[1]), int(named[2]))


def _alone(path: Path) -> RunFigures:
    found = read_json(path)
    if not isinstance(found, dict):
        raise LocalError(f"{path} must hold a JSON object; got {shown(found)}")
    method, seed = found.get("method"), found.get("seed")
    if not isinstance(method, str):
        raise LocalError(f"{path}: method must be text; got {shown(method)}")
    if type(seed) is not int:
        raise LocalError(f"{path}: seed must be a whole number; got {shown(seed)}")
    return RunFigures(method, seed, found)


def _of_several(path: Path, by_name: RunFigures) -> RunFigures:
    found = read_json(path)
    if not isinstance(found, list):
        raise LocalError(f"{path} must hold a JSON list with a run's figures in each place; got {shown(found)}")
    key = by_name.method, by_name.seed
    for one in found:
        if isinstance(one, dict) and (one.get("method"), one.get("seed")) == key:
            return RunFigures(*key, one)
    raise LocalError(f"{path} has no figures of {by_name.method}, seed {by_name.seed}")
