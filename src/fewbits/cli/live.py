"""Live: the progress of each run, with its accuracy, its megabytes, the time it took and the time left.

On a terminal a run is a bar. Elsewhere it is a plain line for its first round, its last one, and at most one in ten
seconds between them.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn

from fewbits.cli.screen import is_watched
from fewbits.engines.simulation import RoundReport
from fewbits.report.text import NONE, duration, megabytes

EVERY = 10.0  # seconds between plain lines, at least
WIDE = 100  # columns of a terminal on which a bar fits, too
Clock = Callable[[], float]  # seconds; only differences count


@dataclass(frozen=True)
class Position:
    """Where a run is."""

    round: int
    up: int  # bytes so far
    down: int
    accuracy: float | None  # the last one measured
    note: str
    elapsed: float  # seconds of this process
    left: float | None  # seconds, estimated from the rounds of this process; None: there was none yet

    @property
    def times(self) -> str:
        """Time taken and time left."""
        left = "" if not self.left else f", {duration(self.left)} left"
        return f"{duration(self.elapsed)}{left}"


class ProgressRow:
    """The progress of one run."""

    def __init__(self, rounds: int, show: Callable[[Position], None], clock: Clock) -> None:
        self._rounds, self._show, self._clock = rounds, show, clock
        self._began, self._first = clock(), 0
        self._accuracy: float | None = None
        self._note = ""

    def resume(self, round: int) -> None:
        """So many rounds were played before this process began."""
        self._first = round

    def show(self, report: RoundReport) -> None:
        """Move to this report."""
        note = "" if report.recycled is None else f"{report.recycled:.0%} recycled"
        self.move(report.round, report.up_frame_bytes, report.down_frame_bytes, report.accuracy, note)

    def move(self, round: int, up: int, down: int, accuracy: float | None, note: str) -> None:
        """Move to a round, with the bytes so far; without an accuracy, the last one stays."""
        self._accuracy = self._accuracy if accuracy is None else accuracy
        self._note = note or self._note
        elapsed, played = self._clock() - self._began, round - self._first
        left = elapsed / played * (self._rounds - round) if played > 0 else None
        self._show(Position(round, up, down, self._accuracy, self._note, elapsed, left))


class Display(ABC):
    """How progress is shown; a context manager."""

    @abstractmethod
    def add(self, name: str, rounds: int) -> Callable[[Position], None]:
        """A run; what this returns shows its position."""

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        return


class Bars(Display):
    """One bar per run. Every report draws them anew; there is no thread, because runs fork."""

    def __init__(self, console: Console) -> None:
        bar: tuple[ProgressColumn, ...] = (BarColumn(bar_width=20),) if console.width >= WIDE else ()
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            *bar,
            TextColumn("{task.completed:>4.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[accuracy]:>6}"),
            TextColumn("up {task.fields[up]:>5} MB down {task.fields[down]:>5} MB"),
            TextColumn("{task.fields[times]}"),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            auto_refresh=False,
        )

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def add(self, name: str, rounds: int) -> Callable[[Position], None]:
        task = self._progress.add_task(name, total=rounds, accuracy="", up=NONE, down=NONE, times="", note="")
        self._progress.refresh()

        def show(now: Position) -> None:
            accuracy = "" if now.accuracy is None else f"{now.accuracy:.1%}"
            fields = {"accuracy": accuracy, "up": megabytes(now.up), "down": megabytes(now.down)}
            fields |= {"times": now.times, "note": now.note}
            self._progress.update(task, completed=now.round, refresh=True, **fields)  # pyright: ignore[reportArgumentType]

        return show


class Lines(Display):
    """Plain lines, for files and pipes; each is written out at once."""

    def __init__(self, console: Console, clock: Clock) -> None:
        self._console, self._clock = console, clock

    def add(self, name: str, rounds: int) -> Callable[[Position], None]:
        said: list[float] = []  # when the last line was written

        def show(now: Position) -> None:
            moment = self._clock()
            if said and now.round < rounds and moment - said[-1] < EVERY:
                return
            said[:] = [moment]
            accuracy = [] if now.accuracy is None else [f"accuracy {now.accuracy:.2%}"]
            sent = f"up {megabytes(now.up)} MB", f"down {megabytes(now.down)} MB"
            parts = [f"{name}: round {now.round}/{rounds}", *accuracy, *sent, now.note, now.times]
            self._console.print(", ".join(filter(None, parts)), markup=False, highlight=False, soft_wrap=True)

        return show


class Live:
    """The progress of several runs, as a context manager."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._display = Bars(console) if is_watched(console) else Lines(console, clock)
        self._clock = clock

    def __enter__(self) -> Live:
        self._display.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._display.__exit__()

    def row(self, name: str, rounds: int) -> ProgressRow:
        """Add a run."""
        return ProgressRow(rounds, self._display.add(name, rounds), self._clock)
