"""Auto: the method, its options, the learning rate and its fall, chosen for a budget by rehearsals."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Task, sgd
from fewbits.errors import LocalError
from fewbits.report.text import megabytes
from fewbits.rng import Key
from fewbits.sizes import short_size
from fewbits.training.rehearsal import ROUNDS, Rehearsal, Say
from fewbits.training.rehearsed import Rehearsed

AUTO = "auto"  # in place of a method's name


@dataclass(frozen=True)
class Choice:
    """What a run is to be."""

    method: str  # as text
    lr: float  # in the first round
    falling: int  # rounds over which it falls to a tenth: all that the budget buys
    why: str  # a sentence

    @staticmethod
    def of(rehearsal: Rehearsal, best: Rehearsed) -> Choice:
        """The outcome of a search."""
        assert rehearsal.budget is not None
        rounds, last, cost = best.rounds(rehearsal.budget, rehearsal.most), best.last, megabytes(best.cost)
        found = f"a loss of {last.loss:.3g}" if last.accuracy is None else f"{last.accuracy:.2%}"
        why = (
            f"auto chose {best.candidate} of {len(rehearsal.done)} candidates for {short_size(rehearsal.budget)}: "
            f"{found} on held-out examples after round {last.rounds} of a rehearsal; {cost} MB a round, so "
            f"about {rounds:,} rounds, in which the rate falls to a tenth"
        )
        return Choice(best.candidate.method, best.candidate.lr, rounds, why)

    def on(self, task: Task) -> Task:
        """The task, trained by this rate."""
        return replace(task, local=replace(sgd(task), lr=self.lr, falling=self.falling))


def choose(
    task: Task, schedule: Schedule, key: Key, rounds: int = ROUNDS, rates: bool = True, say: Say = lambda line: None
) -> Choice:
    """Rehearse on a task, and choose; the arguments are those of `Rehearsal`.

    Raises:
        LocalError: there is no budget, or it buys no round; the rate falls by the task; or no candidate fits.
    """
    if schedule.budget is None:
        raise LocalError("method 'auto' chooses by a budget; give one, such as budget='2MB'")
    if (falling := sgd(task).falling) is not None:
        raise LocalError(
            f"method 'auto' chooses over how many rounds the learning rate falls; leave out falling={falling}"
        )
    rehearsal = Rehearsal(task, schedule, key, rounds, rates, say)
    rehearsal.open()
    return Choice.of(rehearsal, rehearsal.search())
