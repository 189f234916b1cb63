"""RunResult: what results of all engines have in common, as attributes, in print and in a notebook."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fewbits.engines.common import history
from fewbits.links import Ledger

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class RunResult(ABC):
    """What was measured in a run. A notebook shows it as a small table, `print` as a line."""

    reports: Any  # a list of reports, one per round
    ledger: Ledger
    notes: list[str]

    @property
    def accuracy(self) -> float | None:
        """The last accuracy measured; None: there was no evaluation, or an accuracy means nothing here."""
        return self._last("accuracy")

    @property
    def metric(self) -> float | None:
        """The last value of the run's metric; None: it was not measured."""
        return self._last("metric")

    @property
    def loss(self) -> float | None:
        """The last loss on the test set that was finite; None: it was not measured."""
        return self._last("loss")

    @property
    @abstractmethod
    def bytes(self) -> int:
        """Length of all frames of the run."""

    @property
    def history(self) -> Any:
        """A row per round with every figure of its report, and `bytes`, the frame bytes so far.

        A pandas DataFrame where pandas is installed, else a list of dicts: `pandas.DataFrame(result.history)` is a
        frame in either case.
        """
        return history.frame([history.figures(report) for report in self.reports])

    def plot(self, what: str | None = None) -> Figure:
        """The accuracy, loss or metric against the bytes so far, as a figure of matplotlib.

        Args:
            what: "accuracy", "loss" or "metric"; None: the first of accuracy, metric and loss that was measured.

        Raises:
            LocalError: it was not measured, or matplotlib is missing.
        """
        from fewbits.report.drawing import against_bytes  # later: it stands beside what imports this file

        reports: Sequence[history.Measured] = self.reports
        shown = history.wanted([reports], what)
        return against_bytes([("", history.curve(reports, shown))], shown, counted=self._counted())

    def __repr__(self) -> str:
        from fewbits.report.notebook import first

        shown = ", ".join(f"{name} {figure}" for name, figure in self._figures().items())
        return "\n".join([shown, *first(self.notes)])

    def _repr_html_(self) -> str:
        from fewbits.report.notebook import cell

        row = self._figures()
        return cell([list(row), list(row.values())], self.notes)

    def _last(self, name: str) -> float | None:
        return next((value for r in reversed(self.reports) if (value := getattr(r, name)) is not None), None)

    def _figures(self) -> dict[str, str]:
        row = {"rounds": str(len(self.reports))}
        row |= {} if self.accuracy is None else {"accuracy": f"{self.accuracy:.2%}"}
        if self.metric is not None:
            row[str(self.reports[-1].metric_name or "metric")] = f"{self.metric:.4g}"
        row |= {} if self.loss is None else {"test loss": f"{self.loss:.4g}"}
        return row | self._sent()

    @abstractmethod
    def _sent(self) -> dict[str, str]:
        """The figures of bytes."""

    @abstractmethod
    def _counted(self) -> str:
        """Which bytes a picture's axis has."""
