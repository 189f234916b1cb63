"""`fewbits report`: one table, page and CSV file over the runs in any folders."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fewbits.checks import check_number
from fewbits.cli.found_runs import FoundRun, found_runs
from fewbits.cli.play import show_report
from fewbits.cli.screen import screen
from fewbits.errors import LocalError
from fewbits.files import check_file, check_folder, write_atomically
from fewbits.report import rows
from fewbits.report.record import common_bytes
from fewbits.report.table import terminal
from fewbits.report.training import report as report_of
from fewbits.report.write import FIGURES, PAGE, write
from fewbits.sizes import read_sizes

LEFT = {PAGE, FIGURES, "accuracy.png"}
Folders = Annotated[list[Path], typer.Argument(help="Folders of runs, or folders that hold such folders.")]
Out = Annotated[Path | None, typer.Option(help="Folder for the page; a report in it is replaced.", show_default=False)]
Csv = Annotated[
    Path | None, typer.Option("--csv", help="Write the figures of every run to this file.", show_default=False)
]
At = Annotated[
    str | None,
    typer.Option(
        help="Show the accuracy at these bytes of a run, such as 1MB,10MB.", metavar="SIZES", show_default=False
    ),
]
Target = Annotated[float | None, typer.Option(help="Show the bytes to this accuracy, such as 0.9.", show_default=False)]


def report(
    folders: Folders, out: Out = None, csv_file: Csv = None, at: At = None, target_accuracy: Target = None
) -> None:
    """Show runs of any folders in one table: those of train, compare, run, fb.federate and fb.compare.

    Runs that differ in their seeds alone become one row. Bytes are held against the dense run of the same task.
    """
    if target_accuracy is not None:
        check_number("target_accuracy", target_accuracy, "(0, 1]", hint=", such as 0.9 for 90%")
    if csv_file is not None:
        check_file(csv_file)
    if out is not None:
        check_folder(out)
        odd = {path.name for path in out.iterdir()} - LEFT if out.is_dir() else set[str]()
        if odd:
            raise LocalError(f"{out} holds {min(odd)}, and no report; give a new folder")
    runs, console = found_runs(folders), screen()
    records = [run.record for run in runs]
    sizes = read_sizes(at) or common_bytes(records)
    summary = [record.summary(target_accuracy, sizes) for record in records]
    table = terminal(rows(records, target_accuracy, sizes))
    if csv_file is not None:
        write_atomically(csv_file, _csv(runs).encode())
    if out is None:
        console.print(table)
        return
    config = {"folders": [str(run.folder) for run in runs]}
    title = f"{len(runs)} runs" if len(runs) > 1 else f"{records[0].method}"
    line = f"From {', '.join(map(str, folders))}"
    found = report_of(title, records, config, summary, target_accuracy, line, at=sizes)
    out.mkdir(parents=True, exist_ok=True)
    show_report(table, write(out, found), out, console)


def _csv(runs: Sequence[FoundRun]) -> str:
    """A line for each run: its folder, and the figures of its summary.json."""
    lines = [{"folder": str(run.folder), **run.record.summary()} for run in runs]
    names = dict.fromkeys(name for line in lines for name in line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
