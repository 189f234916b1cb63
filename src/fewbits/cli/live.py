"""Live: one progress bar per run, with its accuracy and the megabytes that went up and down so far."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from fewbits.engines.simulation import RoundReport
from fewbits.report.text import NONE, megabytes


class Live:
    """Progress bars, as a context manager. Every report draws them anew; there is no thread, because runs fork."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:>4.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[accuracy]:>7}"),
            TextColumn("up {task.fields[up]:>7} MB  down {task.fields[down]:>7} MB"),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            auto_refresh=False,
        )

    def __enter__(self) -> Live:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def row(self, name: str, rounds: int) -> ProgressRow:
        """Add a bar for a run."""
        task = self._progress.add_task(name, total=rounds, accuracy="", up=NONE, down=NONE, note="")
        self._progress.refresh()
        return ProgressRow(self._progress, task)


class ProgressRow:
    """The bar of one run."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def show(self, report: RoundReport) -> None:
        """Move the bar to this report."""
        note = "" if report.recycled is None else f"{report.recycled:.0%} recycled"
        self.move(report.round, report.up_frame_bytes, report.down_frame_bytes, report.accuracy, note)

    def move(self, round: int, up: int, down: int, accuracy: float | None, note: str) -> None:
        """Move the bar to a round, with the bytes so far; without an accuracy, the last one stays."""
        fields: dict[str, Any] = {"up": megabytes(up), "down": megabytes(down)}
        if accuracy is not None:
            fields["accuracy"] = f"{accuracy:.2%}"
        if note:
            fields["note"] = note
        self._progress.update(self._task, completed=round, refresh=True, **fields)
