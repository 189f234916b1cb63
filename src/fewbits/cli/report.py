"""`fewbits report`: a table for each task, one page and one CSV file over the runs in any folders."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fewbits.analysis.forecast import Link
from fewbits.checks import check_number
from fewbits.cli.found_runs import found_runs
from fewbits.cli.play import noted
from fewbits.cli.run_tables import TaskRuns, by_task, said
from fewbits.cli.screen import print_notes, screen
from fewbits.errors import LocalError
from fewbits.files import check_file, check_folder, write_atomically
from fewbits.report import rows
from fewbits.report.record import common_bytes
from fewbits.report.table import terminal
from fewbits.report.tasks import report_of_tasks
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
Uplink = Annotated[
    float | None,
    typer.Option(
        help="Show the time that the bytes would take on such lines of the clients, Mbit/s. Default: 10, where the "
        "other one is given.",
        show_default=False,
    ),
]
Downlink = Annotated[
    float | None,
    typer.Option(
        help="The same from the server, Mbit/s. Default: 50, where the other one is given.", show_default=False
    ),
]


def report(
    folders: Folders,
    out: Out = None,
    csv_file: Csv = None,
    at: At = None,
    target_accuracy: Target = None,
    uplink_mbps: Uplink = None,
    downlink_mbps: Downlink = None,
) -> None:
    """Show runs of any folders: those of train, compare, run, fb.federate and fb.compare; a table for each task.

    Runs that differ in their seeds alone become one row. Bytes are held against the dense run of the same task and
    training. With --uplink-mbps or --downlink-mbps, "line time" is the sum over rounds of the slowest client's seconds
    for what it received and sent; latency and training are not in it.
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
    given = {"up_mbps": uplink_mbps, "down_mbps": downlink_mbps}
    rates = {name: rate for name, rate in given.items() if rate is not None}
    link = Link(**rates) if rates else None
    tasks = by_task([run if link is None else run.on(link) for run in found_runs(folders)])
    if csv_file is not None:
        write_atomically(csv_file, _csv(tasks).encode(errors="surrogateescape"))
    line = f"From {', '.join(map(str, folders))}"
    lines = "" if link is None else f"line time: of lines of {link.up_mbps:g} Mbit/s up and {link.down_mbps:g} down"
    show_tasks(tasks, out, screen(), f"{line}; {lines}" if lines else line, target_accuracy, read_sizes(at))
    if lines:
        screen().print(f"{lines}, the slowest client of each round; no latency, no training", style="dim")


def show_tasks(
    tasks: Sequence[TaskRuns],
    out: Path | None,
    console: Console,
    line: str,
    target: float | None = None,
    at: Sequence[int] = (),
) -> None:
    """Print a table for each task; with a folder, write the page of all of them.

    Args:
        tasks: the runs.
        out: folder of the page; None: there is none.
        console: where to print.
        line: below the page's title.
        target: an accuracy; tables have the bytes that it took.
        at: byte counts; tables have the accuracy at them, by default at the most that all runs of the task spent.
    """
    sizes = {task.title: tuple(at) or common_bytes(task.records) for task in tasks}
    found = {task.title: (task.records, rows(task.records, target, sizes[task.title])) for task in tasks}
    if several := said(tasks):
        console.print(several, markup=False, highlight=False)
    for title, (_, shown) in found.items():
        if several:
            console.print(f"\n{title}", markup=False, highlight=False, style="bold")
        console.print(terminal(shown))
    runs = [run for task in tasks for run in task.runs]
    notes = list(dict.fromkeys(note for run in runs for note in run.notes))
    print_notes(notes, console)
    if out is None:
        return
    title = f"{len(runs)} runs" if len(runs) > 1 else f"{runs[0].record.method}"
    summary = [
        {"task": task.title, **run.record.summary(target, sizes[task.title])} for task in tasks for run in task.runs
    ]
    config = noted({"folders": [str(run.folder) for run in runs]}, notes)
    if several:
        page = report_of_tasks(title, found, config, summary, f"{line}. {several}")
    else:
        (only,) = tasks
        line = f"{line}: {only.title}"
        page = report_of(title, only.records, config, summary, target, line, at=sizes[only.title])
    out.mkdir(parents=True, exist_ok=True)
    print_notes(write(out, page), console)
    console.print(f"report: {out / PAGE}", markup=False, highlight=False)


def _csv(tasks: Sequence[TaskRuns]) -> str:
    """A line for each run: its folder and its task, and the figures of its summary.json."""
    lines = [
        {"folder": str(run.folder), "task": task.title, **run.record.summary()} for task in tasks for run in task.runs
    ]
    names = dict.fromkeys(name for line in lines for name in line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
