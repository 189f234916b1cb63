"""Auto: the method, its options, the learning rate and its fall, chosen for a budget by rehearsals."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Task, sgd
from fewbits.engines.simulation.budget import ENOUGH
from fewbits.errors import LocalError
from fewbits.report.text import megabytes
from fewbits.rng import Key
from fewbits.sizes import short_size
from fewbits.training.candidates import FACTOR, rounded
from fewbits.training.rehearsal import ROUNDS, Rehearsal, Say
from fewbits.training.rehearsed import Rehearsed, family


@dataclass(frozen=True)
class Choice:
    """What a run is to be."""

    method: str  # as text
    lr: float  # in the first round
    falling: int | None  # rounds over which it falls to a tenth: all that the budget buys; None: it is constant
    why: str  # a sentence
    instead: Choice | None = None  # for what is left of the budget when a run by this one diverges

    @staticmethod
    def of(rehearsal: Rehearsal) -> Choice:
        """The outcome of a search, with what comes instead when it diverges.

        That is the next best candidate of another method or a lower rate, or else the same method at a third of the
        rate: a run that diverges took too long steps.
        """
        best, *others = rehearsal.search()
        method, lr = best.candidate.method, best.candidate.lr
        found = _choice(rehearsal, best)
        for one in others:
            if family(one.candidate.method) != family(method) or one.candidate.lr < lr:
                return replace(found, instead=_choice(rehearsal, one))
        slower = f"{method} at a learning rate of {lr / FACTOR:.3g}, a third of the first choice's"
        return replace(found, instead=replace(found, lr=rounded(lr / FACTOR), why=f"auto goes on with {slower}"))

    def on(self, task: Task) -> Task:
        """The task, trained by this rate."""
        return replace(task, local=replace(sgd(task), lr=self.lr, falling=self.falling))


def _choice(rehearsal: Rehearsal, best: Rehearsed) -> Choice:
    assert rehearsal.budget is not None
    rounds, last, cost = best.rounds(rehearsal.budget, rehearsal.most), best.last, megabytes(best.cost)
    found = f"a loss of {last.loss:.3g}" if last.accuracy is None else f"{last.accuracy:.2%}"
    why = (
        f"auto chose {best.candidate} of {len(rehearsal.done)} candidates for {short_size(rehearsal.budget)}: "
        f"{found} on held-out examples after round {last.rounds} of a rehearsal; {cost} MB a round, so "
        f"about {rounds:,} rounds{', in which the rate falls to a tenth' if best.candidate.falls else ''}"
    )
    return Choice(best.candidate.method, best.candidate.lr, rounds if best.candidate.falls else None, why)


def rest(budget: int, spent: int) -> int | None:
    """Bytes that a run which diverged leaves to another one; None: they are not worth one.

    >>> rest(1000, 400), rest(1000, 995)
    (600, None)
    """
    left = budget - spent
    return left if ENOUGH * left > budget else None


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
    return Choice.of(rehearsal)
