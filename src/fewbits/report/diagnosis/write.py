"""Write what was found: diagnose.json, diagnose.png, diagnose.html."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from fewbits.analysis.diagnosis import Advice, Diagnosis
from fewbits.errors import LocalError
from fewbits.report import figure as colours
from fewbits.report.diagnosis import figure, page

FIGURES, PICTURE, PAGE = "diagnose.json", "diagnose.png", "diagnose.html"
DIGITS = 9  # significant, of figures in JSON: more than float32 has


def write(
    folder: Path, found: Diagnosis, advice: Sequence[Advice], config: Mapping[str, object], command: str
) -> list[str]:
    """Write the three files into `folder`, over earlier ones; returns sentences about what could not be made.

    The JSON holds no time and no path of its own: the same arguments give the same bytes.
    """
    notes: list[str] = []
    pictures = None
    (folder / PICTURE).unlink(missing_ok=True)
    try:
        pictures = figure.png(found, colours.LIGHT), figure.png(found, colours.DARK)
        (folder / PICTURE).write_bytes(pictures[0])
    except LocalError as error:
        notes.append(str(error))
    text = page.html(found, advice, config, command, pictures)
    (folder / PAGE).write_text(text, encoding="utf-8")
    figures = {"config": config, "diagnosis": _rounded(asdict(found)), "advice": [asdict(a) for a in advice]}
    (folder / FIGURES).write_text(json.dumps(figures, indent=1) + "\n")
    return notes


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
