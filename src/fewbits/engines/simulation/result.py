"""Result: what a run returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fewbits.engines.run_result import RunResult
from fewbits.engines.simulation.round_report import RoundReport
from fewbits.links import Ledger


@dataclass(frozen=True, eq=False, repr=False)
class Result(RunResult):
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
    def bytes(self) -> int:
        """Length of all frames of the run, both directions, headers included."""
        return sum(self.ledger.frame_bytes.values())

    def _sent(self) -> dict[str, str]:
        from fewbits.report.text import megabytes

        sent = self.ledger.frame_bytes
        return {"MB up": megabytes(sent["up"]), "MB down": megabytes(sent["down"])}

    def _counted(self) -> str:
        return "both directions"
