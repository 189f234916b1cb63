"""Live: the progress of each run, with its accuracy, its megabytes, the time it took and the time left.

On a terminal a run is a bar. Elsewhere it is a plain line for its first round, its last one, and at most one in ten
seconds between them. What a round's report notes is printed at once, above the bars.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.table import Column

from fewbits.cli.screen import is_watched, print_notes
from fewbits.engines.common.failed_turn import SUBJECT
from fewbits.engines.simulation import RoundReport
from fewbits.report.text import NONE, duration, megabytes

EVERY = 10.0  # seconds between plain lines, at least
NEAR = 0.99  # share of a budget after which no time left is shown
NOTES_SHOWN = 5  # of a run about single clients, and at its end; the page has all
WIDE = 100  # columns of a terminal on which a bar and a note fit, too
Clock = Callable[[], float]  # seconds; only differences count


@dataclass(frozen=True)
class Position:
    """Where a run is."""

    round: int
    up: int  # bytes so far
    down: int
    accuracy: float | None  # the last one measured
    seconds: float  # since the run began, as its report has it
    note: str = ""
    done: float = 0.0  # share of the run's rounds, or of its bytes


class ProgressRow:
    """The progress of one run."""

    def __init__(
        self,
        rounds: int | None,
        show: Callable[[Position, str], None],
        budget: int | None = None,
        say: Callable[[Sequence[str]], None] = lambda notes: None,
    ) -> None:
        """`show` takes a position, and the time taken and left. `budget`: bytes that end the run; None: rounds do.

        `say`: prints notes.
        """
        self._rounds, self._show, self._budget, self._say = rounds, show, budget, say
        self._reported: list[str] = []  # notes of rounds
        self._room = NOTES_SHOWN  # for notes about single clients
        self._accuracy: float | None = None
        self._note = ""

    def watch(self, report: RoundReport) -> None:
        """Move to the report of a round that just ended, and print its notes."""
        self.show(report)
        self.tell(report.notes)

    def tell(self, notes: Sequence[str]) -> None:
        """Print a round's notes: those about the run, and the run's first few about single clients."""
        self._reported += notes
        for note in notes:
            of_client = SUBJECT.match(note) is not None
            if not of_client or self._room > 0:
                self._say([note])
            self._room -= of_client

    def rest(self, notes: Sequence[str]) -> list[str]:
        """Of a whole run's notes the first few that `tell` was not given."""
        more = [f"the report has {-self._room:,} more about single clients"] if self._room < 0 else []
        return [note for note in notes if note not in self._reported][:NOTES_SHOWN] + more

    def show(self, report: RoundReport) -> None:
        """Move to this report."""
        note = "" if report.recycled is None else f"{report.recycled:.0%} recycled now"
        up, down = report.up_frame_bytes, report.down_frame_bytes
        self.move(Position(report.round, up, down, report.accuracy, report.seconds, note))

    def move(self, now: Position) -> None:
        """Move on; without an accuracy or a note, the last one stays."""
        self._accuracy = self._accuracy if now.accuracy is None else now.accuracy
        self._note = now.note or self._note
        done = now.round / self._rounds if self._rounds else 0.0
        done = max(done, (now.up + now.down) / self._budget) if self._budget else done
        left = now.seconds * (1 / max(done, 1e-9) - 1)
        times = duration(now.seconds) + (f", {duration(left)} left" if done < (NEAR if self._budget else 1) else "")
        self._show(replace(now, accuracy=self._accuracy, note=self._note, done=done), times)


class Display(ABC):
    """How progress is shown; a context manager."""

    @abstractmethod
    def add(self, name: str, rounds: int | None) -> Callable[[Position, str], None]:
        """A run; what this returns shows its position."""

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        return


class Bars(Display):
    """One bar per run. Every report draws them anew; there is no thread, because runs fork."""

    def __init__(self, console: Console) -> None:
        wide = console.width >= WIDE
        bar: tuple[ProgressColumn, ...] = (BarColumn(bar_width=20),) if wide else ()
        note = (TextColumn("[dim]{task.fields[note]}"),) if wide else ()
        self._progress = Progress(
            TextColumn("[bold]{task.description}", table_column=Column(no_wrap=False)),  # gives way first
            *bar,
            TextColumn("{task.fields[round]:>4}{task.fields[of]}"),
            TextColumn("{task.fields[accuracy]:>6}"),
            TextColumn("up {task.fields[up]:>5} down {task.fields[down]:>5} MB"),
            TextColumn("{task.fields[times]}"),
            *note,
            console=console,
            auto_refresh=False,
        )

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def add(self, name: str, rounds: int | None) -> Callable[[Position, str], None]:
        fields = {"round": 0, "of": _of(rounds), "accuracy": ""}
        task = self._progress.add_task(name, total=1.0, **fields, up=NONE, down=NONE, times="", note="")
        self._progress.refresh()

        def show(now: Position, times: str) -> None:
            accuracy = "" if now.accuracy is None else f"{now.accuracy:.1%}"
            fields = {"round": now.round, "accuracy": accuracy, "up": megabytes(now.up), "down": megabytes(now.down)}
            fields |= {"times": times, "note": now.note}
            self._progress.update(task, completed=min(1.0, now.done), refresh=True, **fields)  # pyright: ignore[reportArgumentType]

        return show


class Lines(Display):
    """Plain lines, for files and pipes; each is written out at once."""

    def __init__(self, console: Console, clock: Clock) -> None:
        self._console, self._clock = console, clock
        self._said: float | None = None  # when the last line of the present run was written
        self._waiting = ""  # the newest line, if it was not written

    def __exit__(self, *_: object) -> None:
        if self._waiting:  # where a run was stopped
            self._write(self._waiting)

    def _write(self, line: str) -> None:
        self._said, self._waiting = self._clock(), ""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def add(self, name: str, rounds: int | None) -> Callable[[Position, str], None]:
        if self._waiting:  # where its budget ended a run
            self._write(self._waiting)
        self._said, self._waiting = None, ""

        def show(now: Position, times: str) -> None:
            accuracy = [] if now.accuracy is None else [f"accuracy {now.accuracy:.2%}"]
            sent = f"up {megabytes(now.up)} MB", f"down {megabytes(now.down)} MB"
            parts = [f"{name}: round {now.round}{_of(rounds)}", *accuracy, *sent, now.note, times]
            self._waiting = ", ".join(filter(None, parts))
            if self._said is None or now.done >= 1 or self._clock() - self._said >= EVERY:
                self._write(self._waiting)

        return show


class Live:
    """The progress of several runs, as a context manager."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console, self._display = console, Bars(console) if is_watched(console) else Lines(console, clock)

    def __enter__(self) -> Live:
        self._display.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._display.__exit__()

    def row(self, name: str, rounds: int | None, budget: int | None = None) -> ProgressRow:
        """Add a run of so many rounds, so many bytes, or at most both."""
        return ProgressRow(rounds, self._display.add(name, rounds), budget, partial(print_notes, console=self._console))


def _of(rounds: int | None) -> str:
    """What stands behind the number of a round."""
    return "" if rounds is None else f"/{rounds}"
