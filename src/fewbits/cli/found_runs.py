"""The runs below some folders: of `train`, of a comparison or a sweep, and of calls such as fb.federate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from fewbits.analysis.forecast import Link
from fewbits.cli.config import NAME, RunConfig, read_json
from fewbits.cli.run_figures import OF_COMPARISON, run_figures
from fewbits.engines.common.checkpoint import newest_settings
from fewbits.errors import LocalError
from fewbits.report import Record
from fewbits.report.line_time import line_seconds
from fewbits.report.record import against_dense
from fewbits.report.round_log import LEDGER, METRICS
from fewbits.report.write import FIGURES
from fewbits.training.federate import INSTEAD
from fewbits.training.subtitle import MODEL_PARTS, MODEL_TEXT

WITHOUT_SERVER = "is a run without a server; `fewbits report` takes runs with one"
DEEPEST = 3  # folders within folders that are looked at
TASK = ("data", "data_dir", "model", "loss", "metric", "clients", "split", "holdout")  # what is learnt
AUTO = "chosen", "instead"
NO_SETTING = ("method", "settings", "label", *AUTO, "seed", "processes", "checkpoint_every", "keep_frames")
OF_CALL = ("data", "test set", "loss", "metric", "holdout", "clients")  # what is learnt, in a checkpoint's note


@dataclass(frozen=True)
class FoundRun:
    """One run with its folder, and what it may be averaged with."""

    folder: Path
    record: Record
    task: str  # runs of one task stand in one table
    title: str  # of that table
    setting: str  # runs of one task and setting may be held against its dense run
    group: str  # runs of one group differ in their seeds alone
    settings: Mapping[str, object] = field(default_factory=dict)  # how it is trained, by name; {}: not known
    notes: tuple[str, ...] = ()  # what of its files is missing or damaged

    def on(self, link: Link) -> FoundRun:
        """With the time that its bytes would take on such lines."""
        last = self.record.last
        seconds = line_seconds(self.folder / LEDGER, link, last.round, last.bytes)
        return replace(self, record=replace(self.record, line_seconds=seconds))


def found_runs(folders: Sequence[Path]) -> list[FoundRun]:
    """All runs in these folders, in order.

    Raises:
        LocalError: a folder holds no run, or one without a server, or a log cannot be read.
    """
    found: dict[Path, FoundRun] = {}
    for folder in folders:
        places = list(_places(folder, DEEPEST))
        if not folder.exists():
            raise LocalError(f"there is no folder {folder}")
        if not places:
            raise LocalError(f"{folder} holds no run: there is no {METRICS} in it, or in a folder of it")
        found |= {place.resolve(): _read(place) for place in places if place.resolve() not in found}
    return _apart(_with_times_fewer(list(found.values())))


def _places(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / METRICS).is_file() and (folder / LEDGER).is_file():
        yield folder
        yield from _places(folder / INSTEAD, 0)  # what came after it diverged
    elif folder.is_dir() and depth:
        for child in sorted(folder.iterdir()):
            if child.is_dir():
                yield from _places(child, depth - 1)


def _read(folder: Path) -> FoundRun:
    return _of_command(folder) if (folder / NAME).is_file() else _of_call(folder)


def _of_command(folder: Path) -> FoundRun:
    found = read_json(folder / NAME)
    if isinstance(found, dict) and "topology" in found:
        raise LocalError(f"{folder} {WITHOUT_SERVER}")
    config = RunConfig.parse(found, str(folder / NAME))
    meant = config.meant() | {"holdout": config.share_held_out(config.build_method())}
    task = {name: value for name, value in meant.items() if name in TASK and value}
    settings = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in (*TASK, *NO_SETTING)}
    return FoundRun(
        folder,
        Record.read(folder, config.name, config.seed),
        task=str(task),
        title=_title(task),
        setting=str(settings),
        group=f"{config.method} {config.settings} {config.name} {settings}",
        settings=settings,
        notes=_unfinished(folder, (folder / FIGURES).is_file()),
    )


def _title(task: Mapping[str, object]) -> str:
    """What a task is called.

    >>> _title({"data": "digits", "model": "mlp", "clients": 20, "split": "iid", "holdout": 0.2})
    'digits, mlp, 20 clients, split iid, holdout 0.2'
    """
    plain = [f"{value} clients" if name == "clients" else str(value) for name, value in task.items() if name in PLAIN]
    return ", ".join([*plain, *(f"{name} {value}" for name, value in task.items() if name not in PLAIN)])


PLAIN = ("data", "data_dir", "model", "clients")  # parts of a task whose names its title leaves out


def _of_call(folder: Path) -> FoundRun:
    """A run that Python's calls made: its checkpoint and its figures say what was learnt, and how."""
    with (folder / METRICS).open(encoding="utf-8", errors="replace") as lines:
        if '"link_bytes"' in next(lines, ""):
            raise LocalError(f"{folder} {WITHOUT_SERVER}")
    found = run_figures(folder)
    method, figures, notes = found.method, found.figures, found.notes or _unfinished(folder, found.figures)
    record = Record.read(folder, method, found.seed)
    note, model = newest_settings(folder / "checkpoints"), figures.get(MODEL_TEXT)
    if not note or not isinstance(model, str):
        place = str((folder.parent if OF_COMPARISON.fullmatch(folder.name) else folder).resolve())
        group = f"{place} {method}"
        return FoundRun(folder, record, task=place, title=str(folder), setting=place, group=group, notes=notes)
    setting = f"{note.get('local training')} {note.get('clients per round')} {record.last.round}"
    return FoundRun(
        folder,
        record,
        task=f"{model} {figures.get(MODEL_PARTS)} {[note.get(name) for name in OF_CALL]}",
        title=f"{model}, {note.get('clients', '').replace(' with', ' clients with', 1)}",
        setting=setting,
        group=f"{method} {note.get('method')} {setting}",
        notes=notes,
    )


def _unfinished(folder: Path, figures: object) -> tuple[str, ...]:
    """That a run has not ended; () where it has figures, as only a finished one does."""
    return () if figures else (f"{folder}: its run has not ended; the table has the rounds so far",)


def _with_times_fewer(runs: Sequence[FoundRun]) -> list[FoundRun]:
    """With `times_fewer`, where the dense run of the same task and setting is there."""
    found: dict[Path, FoundRun] = {}
    for key in dict.fromkeys((run.task, run.setting) for run in runs):
        ours = [run for run in runs if (run.task, run.setting) == key]
        records = against_dense([run.record for run in ours])
        found |= {run.folder: replace(run, record=record) for run, record in zip(ours, records, strict=True)}
    return [found[run.folder] for run in runs]


def _apart(runs: Sequence[FoundRun]) -> list[FoundRun]:
    """The same run twice is no second seed: it gets a group of its own."""
    seen: Counter[tuple[str, str, int]] = Counter()
    found = []
    for run in runs:
        key = run.task, run.group, run.record.seed
        found.append(replace(run, group=f"{run.group} {seen[key]}") if seen[key] else run)
        seen[key] += 1
    return found
