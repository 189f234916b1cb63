"""Result: what a run returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from fewbits.engines.simulation import history
from fewbits.engines.simulation.round_report import RoundReport
from fewbits.links import Ledger

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The trained model and what was measured on the way. A notebook shows it as a small table, `print` as a line.

    Example:
        >>> import torch, fewbits as fb
        >>> x, y = torch.randn(20, 3), torch.arange(20) % 2
        >>> result = fb.federate(torch.nn.Linear(3, 2), [(x, y)], fb.methods.dense(), rounds=2)
        >>> len(result.reports), result.ledger.messages, result.bytes == sum(result.ledger.frame_bytes.values())
        (2, {'up': 2, 'down': 2}, True)
    """

    model: nn.Module  # the given model, trained in place
    reports: list[RoundReport]  # one per round
    ledger: Ledger  # byte and message counts; `ledger.frame_bytes["up"]` is the run's total
    notes: list[str]  # sentences about faults that the run survived

    @property
    def accuracy(self) -> float | None:
        """The last accuracy measured; None: there was no evaluation, or an accuracy means nothing here."""
        return next((r.accuracy for r in reversed(self.reports) if r.accuracy is not None), None)

    @property
    def metric(self) -> float | None:
        """The last value of the run's metric; None: it was not measured."""
        return next((r.metric for r in reversed(self.reports) if r.metric is not None), None)

    @property
    def loss(self) -> float | None:
        """The last loss on the test set that was finite; None: it was not measured."""
        return next((r.loss for r in reversed(self.reports) if r.loss is not None), None)

    @property
    def bytes(self) -> int:
        """Length of all frames of the run, both directions, headers included."""
        return sum(self.ledger.frame_bytes.values())

    @property
    def history(self) -> Any:
        """A row per round with every figure of its report, and `bytes`, those of both directions so far.

        A pandas DataFrame where pandas is installed, else a list of dicts: `pandas.DataFrame(result.history)` is a
        frame in either case.
        """
        return history.frame([history.figures(report) for report in self.reports])

    def plot(self, what: str | None = None) -> Figure:
        """The accuracy, loss or metric against the bytes of both directions, as a figure of matplotlib.

        Args:
            what: "accuracy", "loss" or "metric"; None: the first of accuracy, metric and loss that was measured.

        Raises:
            LocalError: it was not measured, or matplotlib is missing.
        """
        from fewbits.report.drawing import against_bytes  # later: it stands beside what imports this file

        shown = history.wanted([self.reports], what)
        return against_bytes([("", history.curve(self.reports, shown))], shown)

    def __repr__(self) -> str:
        from fewbits.report.notebook import first

        shown = ", ".join(f"{name} {figure}" for name, figure in self._figures().items())
        return "\n".join([shown, *first(self.notes)])

    def _repr_html_(self) -> str:
        from fewbits.report.notebook import cell

        row = self._figures()
        return cell([list(row), list(row.values())], self.notes)

    def _figures(self) -> dict[str, str]:
        from fewbits.report.text import megabytes

        sent = self.ledger.frame_bytes
        row = {"rounds": str(len(self.reports))}
        row |= {} if self.accuracy is None else {"accuracy": f"{self.accuracy:.2%}"}
        if self.metric is not None:
            row[str(self.reports[-1].metric_name or "metric")] = f"{self.metric:.4g}"
        row |= {} if self.loss is None else {"test loss": f"{self.loss:.4g}"}
        return row | {"MB up": megabytes(sent["up"]), "MB down": megabytes(sent["down"])}
