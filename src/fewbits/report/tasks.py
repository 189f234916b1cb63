"""The report of runs of several tasks: a chart and tables for each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from fewbits.report.chart import chart
from fewbits.report.page import Section, configuration
from fewbits.report.record import Record
from fewbits.report.table import Row
from fewbits.report.training import MEASURED, caption, tables
from fewbits.report.write import Report

NO_SCRIPT = '<p class="soft">The chart needs a browser that runs scripts.</p>'


def report_of_tasks(
    title: str,
    tasks: Mapping[str, tuple[Sequence[Record], Sequence[Row]]],
    config: Mapping[str, object],
    summary: object,
    subtitle: str,
) -> Report:
    """The report of these tasks: under the title of each, its chart and the tables that a report of it alone has.

    Args:
        title: of the page.
        tasks: by title, the runs of each task and the rows of its table.
        config: what was asked for.
        summary: the content of summary.json.
        subtitle: the line below the title.
    """
    sections = [
        *(Section(name, _parts(records, found)) for name, (records, found) in tasks.items()),
        Section("What is measured", [MEASURED]),
        configuration(config),
    ]
    return Report(title, subtitle, sections, None, "", summary)


def _parts(records: Sequence[Record], found: Sequence[Row]) -> list[str]:
    below = ((f"<h3>{section.heading}</h3>", *section.parts) for section in tables(records, found))
    return [chart(records, caption(found), NO_SCRIPT), *chain.from_iterable(below)]
