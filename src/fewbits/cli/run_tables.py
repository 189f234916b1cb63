"""Found runs as tables: one for each task, with rows whose names tell what the runs do not share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from fewbits.cli.found_runs import FoundRun
from fewbits.report import Record

SHOWN = 3  # folders without a common beginning that a row names
LEAST = 2  # letters of a common beginning


@dataclass(frozen=True)
class TaskRuns:
    """The runs of one task."""

    title: str
    runs: Sequence[FoundRun]

    @property
    def records(self) -> list[Record]:
        """Those of the runs."""
        return [run.record for run in self.runs]


def by_task(runs: Sequence[FoundRun]) -> list[TaskRuns]:
    """The runs of each task, in the order of its first run; unlike tasks have unlike titles."""
    tasks: dict[str, list[FoundRun]] = {}
    for run in runs:
        tasks.setdefault(run.task, []).append(run)
    titles = Counter(found[0].title for found in tasks.values())
    return [
        TaskRuns(title if titles[title := found[0].title] == 1 else f"{title} ({_places(found)})", _named(found))
        for found in tasks.values()
    ]


def said(tasks: Sequence[TaskRuns]) -> str:
    """Why there are several tables; "" when there is one."""
    if len(tasks) == 1:
        return ""
    return f"{len(tasks)} tasks, each with its own table: figures of unlike tasks cannot be held against each other."


def _named(runs: Sequence[FoundRun]) -> list[FoundRun]:
    """Rows of different groups have different names: behind the method's stands what differs, or else the folder."""
    varied = _varied(runs)
    groups = {run.group: [other for other in runs if other.group == run.group] for run in runs}
    names = {group: _with_settings(found[0], varied) for group, found in groups.items()}
    often = Counter(names.values())
    names = {g: name if often[name] == 1 else f"{name} ({_places(groups[g])})" for g, name in names.items()}
    return [replace(run, record=replace(run.record, method=names[run.group])) for run in runs]


def _varied(runs: Sequence[FoundRun]) -> list[str]:
    """The settings that have two values or more among the runs whose settings are known."""
    known = [run.settings for run in runs if run.settings]
    return [name for name in (known[0] if known else ()) if len({str(found.get(name)) for found in known}) > 1]


def _with_settings(run: FoundRun, varied: Sequence[str]) -> str:
    shown = [(name, run.settings.get(name)) for name in varied]
    text = ", ".join(f"{name.replace('_', '-')}={value}" for name, value in shown if value is not None)
    return f"{run.record.method} ({text})" if text else run.record.method


def _places(runs: Sequence[FoundRun]) -> str:
    """The folders of several runs in few words.

    One is named, several by their common beginning; without one, by the first few.
    """
    names = list(dict.fromkeys(str(run.folder) for run in runs))
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    begin = "".join(letters[0] for letters in alike)
    if len(names) == 1 or len(begin) < LEAST:
        more = [f"{len(names) - SHOWN} more"] * (len(names) > SHOWN)
        return ", ".join([*names[:SHOWN], *more])
    return f"{begin}*"
