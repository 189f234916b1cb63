"""Write a report: figures as JSON, a picture, and a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fewbits.errors import LocalError
from fewbits.files import write_atomically
from fewbits.json_text import json_text
from fewbits.report.chart import script
from fewbits.report.drawing import DARK, LIGHT, Theme
from fewbits.report.page import Picture, Section, document, image

PAGE, FIGURES = "report.html", "summary.json"


@dataclass(frozen=True, eq=False)
class Report:
    """What is written: a title, tables and notes in sections, a picture, and the figures."""

    title: str
    subtitle: str  # a line below the title
    sections: Sequence[Section]
    draw: Callable[[Theme], bytes] | None  # the picture, LocalError when there is none; None: charts stand in sections
    alt: str  # what the picture shows
    figures: object  # for JSON
    caption: str = ""  # below the picture
    page_name: str = PAGE
    figures_name: str = FIGURES
    picture_name: str = "accuracy.png"
    chart: Callable[[str], str] | None = None  # takes the picture's place where scripts run; given HTML for elsewhere


def write(folder: Path, report: Report) -> list[str]:
    """Write the three files into `folder`, over earlier ones; returns a sentence for each that could not be made."""
    write_atomically(folder / report.figures_name, (json_text(report.figures, indent=2) + "\n").encode())
    (folder / report.picture_name).unlink(missing_ok=True)
    notes: list[str] = []
    picture = ""
    try:
        picture = _picture(folder, report)
    except LocalError as error:
        notes.append(str(error))
    if report.chart:
        picture = report.chart(picture)
    scripted = report.chart is not None or report.draw is None
    page = document(report.title, report.subtitle, picture, report.sections, script() if scripted else "")
    write_atomically(
        folder / report.page_name, page.encode(errors="backslashreplace")
    )  # a folder's name may be no text
    return notes


def _picture(folder: Path, report: Report) -> str:
    """The picture as a file and as HTML; "" where the report has none."""
    if report.draw is None:
        return ""
    drawn = Picture(report.draw(LIGHT), None if report.chart else report.draw(DARK), report.alt)
    write_atomically(folder / report.picture_name, drawn.light)
    return image(drawn, "" if report.chart else report.caption)
