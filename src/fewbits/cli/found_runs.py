"""The runs below some folders: of `train`, of a comparison or a sweep, and of calls such as fb.federate."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

from fewbits.cli.config import NAME, RunConfig, read_json
from fewbits.errors import LocalError
from fewbits.report import Record
from fewbits.report.record import LEDGER, METRICS, against_dense
from fewbits.report.write import FIGURES

DEEPEST = 3  # folders within folders that are looked at
OF_COMPARISON = re.compile(r"(.+)-seed(\d+)")  # the name of a folder that a comparison made


@dataclass(frozen=True)
class FoundRun:
    """One run with its folder, and what it may be averaged with."""

    folder: Path
    record: Record
    task: str  # runs of one task may be held against its dense run
    group: str  # runs of one group differ in their seeds alone


def found_runs(folders: Sequence[Path]) -> list[FoundRun]:
    """All runs in these folders, in order; two groups with one method's name get longer names.

    Raises:
        LocalError: a folder holds no run, or one without a server, or a log cannot be read.
    """
    found: dict[Path, FoundRun] = {}
    for folder in folders:
        places = list(_places(folder, DEEPEST))
        if not places:
            raise LocalError(f"{folder} holds no run: there is no {METRICS} in it, or in a folder of it")
        found |= {place.resolve(): _read(place) for place in places if place.resolve() not in found}
    return _named(_apart(_with_times_fewer(list(found.values()))))


def _places(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / METRICS).is_file() and (folder / LEDGER).is_file():
        yield folder
    elif folder.is_dir() and depth:
        for child in sorted(folder.iterdir()):
            if child.is_dir():
                yield from _places(child, depth - 1)


def _read(folder: Path) -> FoundRun:
    if (folder / NAME).is_file():
        found = read_json(folder / NAME)
        if isinstance(found, dict) and "topology" in found:
            raise LocalError(f"{folder} is a run without a server; `fewbits report` takes runs with one")
        config = RunConfig.parse(found, str(folder / NAME))
        shared = replace(config, method="dense", settings={}, label="", seed=0, chosen=None)
        group = repr(replace(config, seed=0, processes=1, checkpoint_every=1, keep_frames=0))
        return FoundRun(folder, Record.read(folder, config.name, config.seed), repr(shared), group)
    named = OF_COMPARISON.fullmatch(folder.name)
    if named is not None:  # of fb.compare
        place = str(folder.parent.resolve())
        return FoundRun(folder, Record.read(folder, unquote(named[1]), int(named[2])), place, f"{place} {named[1]}")
    place = str(folder.resolve())
    figures = read_json(folder / FIGURES) if (folder / FIGURES).is_file() else None
    known = figures if isinstance(figures, dict) else {}
    method, seed = known.get("method"), known.get("seed")
    return FoundRun(
        folder,
        Record.read(folder, method if isinstance(method, str) else folder.name, seed if isinstance(seed, int) else 0),
        place,
        place,
    )


def _with_times_fewer(runs: Sequence[FoundRun]) -> list[FoundRun]:
    """With `times_fewer`, where the dense run of the same task is there."""
    found = []
    for task in dict.fromkeys(run.task for run in runs):
        ours = [run for run in runs if run.task == task]
        records = against_dense([run.record for run in ours])
        found += [replace(run, record=record) for run, record in zip(ours, records, strict=True)]
    return found


def _apart(runs: Sequence[FoundRun]) -> list[FoundRun]:
    """The same run twice is no second seed: it gets a group of its own."""
    seen: Counter[tuple[str, int]] = Counter()
    found = []
    for run in runs:
        key = run.group, run.record.seed
        found.append(replace(run, group=f"{run.group} {seen[key]}") if seen[key] else run)
        seen[key] += 1
    return found


def _named(runs: Sequence[FoundRun]) -> list[FoundRun]:
    """Records of different groups have different names: the folder stands behind the method's."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        groups.setdefault(run.record.method, [])
        if run.group not in groups[run.record.method]:
            groups[run.record.method].append(run.group)
    first = {run.group: run.folder for run in reversed(runs)}
    found = []
    for run in runs:
        alone = len(groups[run.record.method]) == 1
        name = run.record.method if alone else f"{run.record.method} ({first[run.group]})"
        found.append(replace(run, record=replace(run.record, method=name)))
    return found
