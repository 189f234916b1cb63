"""The log of a run's rounds, read back: each line is checked before it is a report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from fewbits.checks import shown
from fewbits.errors import LocalError

METRICS, LEDGER = "metrics.jsonl", "ledger.jsonl"
LATER = "it is of a later version of fewbits, or of another kind of run"
Report = TypeVar("Report")


def read_reports(folder: Path, kind: type[Report]) -> tuple[Report, ...]:
    """The reports of a run's rounds, in order; a line that is being written is none.

    Args:
        folder: of the run.
        kind: a dataclass: RoundReport or GossipReport.

    Raises:
        LocalError: a log is missing or empty, or a line is not of this kind.
    """
    metrics = folder / METRICS
    for path in (metrics, folder / LEDGER):
        if not path.exists():
            raise LocalError(f"{folder} holds no finished round: there is no {path.name}")
    try:
        text = metrics.read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        for number, line in enumerate(lines, 1):
            _check(line, _hints(kind), f"{metrics}, line {number}")
        reports = tuple(kind(**line) for line in lines)
    except LocalError:
        raise
    except (ValueError, TypeError, RecursionError):
        raise LocalError(f"{metrics} is not the log of such a run") from None
    if not reports:
        raise LocalError(f"{folder} holds no finished round: {metrics.name} is empty")
    return reports


@cache
def _hints(kind: Any) -> Mapping[str, Any]:
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}


def _check(line: Any, hints: Mapping[str, Any], where: str) -> None:
    if not isinstance(line, dict):
        raise TypeError
    for name, value in line.items():
        if name not in hints:
            raise LocalError(f"{where}: unknown figure {name!r}; {LATER}")
        if not _fits(value, hints[name]):
            raise LocalError(f"{where}: {name} is no figure of this kind; got {shown(value)}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of JSON has the declared type.

    >>> _fits(3, float), _fits(True, float), _fits(None, float | None), _fits(["a", 1], list[str])
    (True, False, True, False)
    """
    if isinstance(hint, UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if get_origin(hint) is list:
        return isinstance(value, list) and all(_fits(each, get_args(hint)[0]) for each in value)
    if hint is float:
        return type(value) in (int, float)
    return value is None if hint is NoneType else type(value) is hint
