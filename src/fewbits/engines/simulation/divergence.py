"""Divergence: a training loss that stays far above that of the first round."""

from __future__ import annotations

from collections.abc import Sequence

from fewbits.engines.common.schedule import Schedule
from fewbits.engines.simulation.round_report import RoundReport

FAR = 1.5  # times the first round's loss
ROUNDS = 5  # in a row


def diverges(reports: Sequence[RoundReport]) -> bool:
    """Whether in each of the last rounds the loss was far above that of the first round, or no update counted.

    It is the mean training loss of a round's clients, so it is known in every round. A first loss of zero or below, as
    a log-density may have, is no measure.
    """
    start = next((report.train_loss for report in reports if report.train_loss is not None), None)
    last = reports[-ROUNDS:]
    return len(last) == ROUNDS and all(_is_lost(report) or _is_far(report.train_loss, start) for report in last)


def gave_up(reports: Sequence[RoundReport], schedule: Schedule) -> bool:
    """Whether a run diverged by the round before its last one; the round that was about to begin is played."""
    return schedule.give_up and diverges(reports[:-1])


def lost(reports: Sequence[RoundReport]) -> int:
    """In how many rounds no client's update could be used, and the budget is not why."""
    return sum(_is_lost(report) and report.too_dear is None for report in reports)


def sentences(reports: Sequence[RoundReport]) -> list[str]:
    """What is wrong where `diverges` says so; else nothing."""
    if not diverges(reports):
        return []
    return [
        f"round {reports[-1].round}: the run diverges: for {ROUNDS} rounds no client's update could be used, or the "
        f"training loss was over {FAR} times that of the first round"
    ]


def _is_lost(report: RoundReport) -> bool:
    """Whether updates of clients were not finite, or too large for the server, and none was used."""
    return report.diverged or (not report.clients and report.skipped + report.rejected > 0)


def _is_far(loss: float | None, start: float | None) -> bool:
    return loss is not None and start is not None and loss > FAR * start > 0
