"""Result: what a run leaves."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fewbits.engines.simulation.round_report import RoundReport
from fewbits.links import Ledger


@dataclass(frozen=True, eq=False)
class Result:
    """The trained model and what was measured on the way.

    Example:
        >>> import torch, fewbits as fb
        >>> x, y = torch.randn(20, 3), torch.arange(20) % 2
        >>> result = fb.federate(torch.nn.Linear(3, 2), [(x, y)], fb.methods.dense(), rounds=2)
        >>> len(result.reports), result.ledger.messages
        (2, {'up': 2, 'down': 2})
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
