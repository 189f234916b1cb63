"""Tell observers of a run; what they raise ends no run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from fewbits.engines.common.failed_turn import sentence
from fewbits.engines.simulation import Result, RoundReport
from fewbits.errors import LocalError
from fewbits.trackers.observer import Observer


class Watchers:
    """The observers of one run, and what they raised."""

    def __init__(self) -> None:
        self.result: Result | None = None  # set it when the run has ended
        self._started: list[Observer] = []
        self._noted: dict[int, str] = {}  # by observer, its first fault

    def start(
        self, observers: Sequence[Observer], name: str, config: Mapping[str, object], folder: Path | None
    ) -> None:
        """Tell them of the start; LocalError when one raises."""
        for observer in observers:
            try:
                observer.on_start(name, config, folder)
            except Exception as error:
                raise LocalError(f"log: {_name(observer)} could not start: {sentence(error)}") from error
            self._started.append(observer)

    def round(self, report: RoundReport) -> None:
        """Tell them of a round."""
        for i, observer in enumerate(self._started):
            self._try(i, f"round {report.round}", lambda observer=observer: observer.on_round(report))

    def watch(self, other: Callable[[RoundReport], None] | None) -> Callable[[RoundReport], None]:
        """A function of a round's report that tells them and then calls `other`."""

        def both(report: RoundReport) -> None:
            self.round(report)
            if other is not None:
                other(report)

        return both

    def end(self) -> None:
        """Tell them of the end, and add `notes` to the result's."""
        for i, observer in enumerate(self._started):
            self._try(i, "the end", lambda observer=observer: observer.on_end(self.result))
        if self.result is not None:
            self.result.notes.extend(self.notes)

    @property
    def notes(self) -> list[str]:
        """A sentence for each observer that raised."""
        return list(self._noted.values())

    def _try(self, i: int, when: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - a tracker may raise anything
            said = f"log: {_name(self._started[i])} failed at {when}, and the run went on: {sentence(error)}"
            self._noted.setdefault(i, said)


@contextmanager
def watching(
    observers: Sequence[Observer], name: str, config: Mapping[str, object], folder: Path | None
) -> Iterator[Watchers]:
    """Tell observers of the start of a run, and at the end of the block of its end.

    Set `result` of what it gives; without, the run has raised. The arguments are those of `Observer.on_start`.
    """
    watchers = Watchers()
    try:
        watchers.start(observers, name, config, folder)
        yield watchers
    finally:
        watchers.end()


def _name(observer: Observer) -> str:
    return type(observer).__name__
