"""The page of runs that go on: their chart and table so far, which a browser reads anew by itself."""

from __future__ import annotations

import time
from collections.abc import Mapping
from html import escape
from pathlib import Path

from fewbits.engines.simulation import Result, RoundReport
from fewbits.files import write_atomically
from fewbits.report.chart import chart, script
from fewbits.report.page import Section, document, table
from fewbits.report.record import Record
from fewbits.report.round_log import METRICS, read_reports
from fewbits.report.table import cells, columns, legend, rows
from fewbits.trackers.observer import Observer

PAGE = "live.html"
REST = 30  # seconds until the browser reads a page whose run has ended
EVERY = 2  # seconds between two pages, and until the browser reads the next one


class LivePage(Observer):
    """`live.html`: the runs of this call so far, a line for each; open it in a browser while they go on.

    Args:
        folder: of the page.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._runs: dict[str, list[RoundReport]] = {}
        self._written = 0.0

    def on_start(self, name: str, config: Mapping[str, object], folder: Path | None) -> None:
        self._name, self._rounds = name, config.get("rounds")
        metrics = None if folder is None else folder / METRICS
        earlier = metrics is not None and metrics.exists() and metrics.stat().st_size > 0
        self._runs[name] = list(read_reports(folder, RoundReport)) if folder is not None and earlier else []
        self._write(over=False)

    def on_round(self, report: RoundReport) -> None:
        self._runs[self._name].append(report)
        if time.monotonic() - self._written >= EVERY:
            self._write(over=False)

    def on_end(self, result: Result | None) -> None:
        self._write(over=True)

    def _write(self, over: bool) -> None:
        """The page; one whose run is `over` is read seldom, as another run of a comparison may begin."""
        reports = self._runs[self._name]
        done = f"{self._name}: " + (f"round {reports[-1].round}" if reports else "before its first round")
        line = done + (f" of {self._rounds}" if self._rounds else "") + (", ended" if over else "")
        records = [Record(name, 0, tuple(found), {}, {}) for name, found in self._runs.items() if found]
        found = rows(records, None, ())
        names = columns(found) if found else []
        marks = [f"<p>{escape(line)}</p>" for line in legend(found)]
        sections = [Section("So far", [table([names, *(cells(row, names) for row in found)]), *marks])] * bool(found)
        again = f'<meta http-equiv="refresh" content="{REST if over else EVERY}">'
        page = document("Live", line, again + chart(records, "The runs of this call.", ""), sections, script())
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._folder / PAGE, page.encode(errors="backslashreplace"))
        self._written = time.monotonic()
