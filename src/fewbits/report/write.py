"""Write what a set of runs came to: summary.json, accuracy.png, report.html."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from fewbits.errors import LocalError
from fewbits.report import figure, page
from fewbits.report.record import Record
from fewbits.report.table import rows


def write(
    folder: Path,
    title: str,
    records: Sequence[Record],
    config: Mapping[str, object],
    summary: object,
    target: float | None = None,
) -> list[str]:
    """Write the three files into `folder`; returns sentences about what could not be made (the picture)."""
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    notes: list[str] = []
    pictures = None
    try:
        pictures = figure.png(records, figure.LIGHT), figure.png(records, figure.DARK)
        (folder / "accuracy.png").write_bytes(pictures[0])
    except LocalError as error:
        notes.append(str(error))
    text = page.html(title, records, rows(records, target), config, pictures)
    (folder / "report.html").write_text(text, encoding="utf-8")
    return notes
