"""Rehearsals: candidates for a budget, each played on the run's own clients, and the choice among them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from fewbits.checks import check_count
from fewbits.data.partition import hold_out
from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Task, sgd
from fewbits.engines.simulation import Federation
from fewbits.engines.simulation.divergence import lost
from fewbits.errors import LocalError
from fewbits.factor.derived import duplicate
from fewbits.methods import build
from fewbits.rng import Key
from fewbits.training.candidates import FACTOR, beside, candidates, rounded
from fewbits.training.rehearsed import WORST, Candidate, Merit, Play, Rehearsed, best_methods

ROUNDS = 8  # of every candidate's first rehearsal, by default
LONGEST = 16  # times as many rounds the longest rehearsal has
NEARLY = 0.9  # of the rounds that a budget seems to buy: a rehearsal of so many stands for all
REPEATED = 4  # so many candidates at most are repeated
SEEDS = 3  # rehearsals to the end of each of them
HELD_OUT = 0.2  # of a client's examples: what rehearsals are judged by, as a run never trains on its test set
FEW = 5  # a client with fewer examples holds none out

Say = Callable[[str], None]


class Rehearsal:
    """Plays candidates on a task: all for few rounds, and some to the end of the budget.

    A candidate is a method at a learning rate. `open` plays all of them for few rounds. `search` plays each method to
    the end of the budget, at the rate whose loss may become lowest. From the best of the two best methods each, it
    plays what is `beside` them to the end, too, and moves to a better one, until there is none. The best are played
    twice more, from other initial models and with other clients in each round, and the worst of the three counts: a
    rate at the edge shows there. Rounds beyond the longest rehearsal count for nothing. No byte travels.

    Args:
        task: the run's; its model and its test set are not touched.
        schedule: the run's: its budget, its most rounds, clients per round, processes and device.
        key: the run's.
        rounds: of every first rehearsal; the longest has 16 times as many.
        rates: whether to choose the learning rate, too; else it is that of the task.
        say: told what is rehearsed next.

    Raises:
        LocalError: no client has examples enough, or no candidate fits the model and the budget.
    """

    def __init__(
        self,
        task: Task,
        schedule: Schedule,
        key: Key,
        rounds: int = ROUNDS,
        rates: bool = True,
        say: Say = lambda line: None,
    ) -> None:
        check_count("rehearsal", rounds)
        self.rounds, self.budget, self.most = rounds, schedule.budget, schedule.rounds
        self._task, self._schedule, self._key = held_out(task, key), schedule, key
        self._rates, self._say, self._count = rates, say, 0
        self._plays: dict[Candidate, tuple[Play, ...]] = {}
        self._numbers = sum(p.numel() for p in task.model.parameters() if p.requires_grad)
        self._methods = candidates(self._numbers)
        self.refused: dict[str, str] = {}  # why a method could not be played

    @property
    def done(self) -> list[Rehearsed]:
        """All that were played, in the order in which they were first."""
        return [Rehearsed(one, plays) for one, plays in self._plays.items() if plays]

    @property
    def best_rates(self) -> list[Rehearsed]:
        """Each method at its best rate: the best at its end, or else the one of the least loss after most rounds."""

        def rank(one: Rehearsed) -> tuple[float, ...]:
            return (1, *one.last.merit) if self.is_complete(one) else (0, one.last.rounds, -one.last.loss)

        found: dict[str, Rehearsed] = {}
        for one in sorted(self.done, key=rank, reverse=True):
            found.setdefault(one.candidate.method, one)
        return list(found.values())

    def open(self) -> None:
        """The first rehearsals."""
        lr = sgd(self._task).lr
        for method in self._methods:
            for rate in (lr, FACTOR * lr, FACTOR**2 * lr) if self._rates else (lr,):
                self._first(Candidate(method, rounded(rate)))
        if not self.done:
            raise LocalError("no candidate could be rehearsed: " + "; ".join(self.refused.values()))

    def search(self) -> list[Rehearsed]:
        """The best candidates at the end of the budget; the first one is better than all that are beside it."""
        for method in self._methods:  # each to its end: a loss may stand still for long before it falls
            if rates := [one for one in self.done if one.candidate.method == method]:
                self._whole(min(rates, key=lambda one: one.hope(self._end(one))).candidate)
        complete = [one for one in self.done if self.is_complete(one)]
        if not complete:
            raise LocalError("no candidate could be rehearsed to its end: " + "; ".join(self.refused.values()))
        for one in best_methods(complete):
            self._climb(one)
        return self._ranked()

    def _ranked(self) -> list[Rehearsed]:
        """The best candidates, each by the worst of its rehearsals to the end.

        They are repeated in the order of their first rehearsal, as a repetition can only lower what counts: the search
        stops where the next one's first rehearsal is below the best that was found, or after `REPEATED`.
        """
        complete = [one for one in self.done if self.is_complete(one)]
        found: list[tuple[Merit, Rehearsed]] = []
        for one in sorted(complete, key=lambda one: one.last.merit, reverse=True)[:REPEATED]:
            best = max((merit for merit, _ in found), default=WORST.merit)
            if one.last.merit <= best:
                break
            found.append((self._worst(one, best), one))
        return [one for _, one in sorted(found, key=lambda pair: pair[0], reverse=True)]

    def _climb(self, best: Rehearsed) -> Rehearsed:
        """From one to a better one beside it, until there is none."""
        while True:
            self._say(f"rehearsals of what is beside {best.candidate}")
            found = [
                Rehearsed(one, plays)
                for one in beside(best.candidate, self._numbers, self._rates)
                if (plays := self._whole(one))
            ]
            better = max([best, *found], key=lambda one: one.last.merit)  # ties: the one that was
            if better is best:
                return best
            best = better

    def _worst(self, one: Rehearsed, best: Merit) -> Merit:
        """The worst of its longest rehearsal and of repetitions; these end where they are below the best."""
        worst = one.last.merit
        for number in range(1, SEEDS):
            if worst > best:
                again = self._played(one.candidate, one.last.rounds, self._key.fold("again", number), anew=True)
                worst = min(worst, (again or WORST).merit)
        return worst

    def _whole(self, one: Candidate) -> tuple[Play, ...]:
        """The rehearsals of a candidate, after one to its end; none: it diverges, or was refused."""
        self._first(one)
        found = Rehearsed(one, self._plays[one])
        if found.plays and not self.is_complete(found):
            self._play(one, self._end(found))
        return self._plays[one]

    def _end(self, one: Rehearsed) -> int:
        """Rounds of its longest rehearsal."""
        return min(one.rounds(self.budget, self.most), LONGEST * self.rounds)

    def is_complete(self, one: Rehearsed) -> bool:
        """Whether it was played to its end."""
        return NEARLY * self._end(one) <= one.last.rounds

    def _first(self, one: Candidate) -> None:
        """Two short rehearsals: how the loss falls from one to the other says how it may go on."""
        if one in self._plays:
            return
        self._plays[one] = ()
        for rounds in dict.fromkeys(min(n, self.most) for n in (max(1, self.rounds // 2), self.rounds)):
            self._play(one, rounds)
            if not self._plays[one] or self._plays[one][-1].ended:
                return

    def _play(self, one: Candidate, rounds: int) -> None:
        """Play it; a candidate that fails or diverges is out."""
        played = self._played(one, rounds, self._key)
        self._plays[one] = () if played is None else (*self._plays[one], played)

    def _played(self, one: Candidate, rounds: int, key: Key, anew: bool = False) -> Play | None:
        """One rehearsal, `anew` from another initial model; None, and `refused` says why: it fails or diverges."""
        self._count += 1
        self._say(f"rehearsal {self._count}: {one}, {rounds} rounds{', anew' if anew else ''}")
        local = replace(sgd(self._task), lr=one.lr, falling=rounds if one.falls else None)
        task = replace(self._task, model=duplicate(self._task.model), local=local)
        if anew and task.build is not None:
            task = replace(task, seed=key, model=task.build(key))
        schedule = replace(self._schedule, rounds=rounds, evaluate_every=rounds)
        try:
            reports = Federation(task, build(one.method), schedule, key).run().reports
        except LocalError as error:
            self.refused[one.method] = f"{one.method}: {error}"
            return None
        last, sums = reports[-1], [report.bytes for report in reports]
        if last.loss is None or not math.isfinite(last.loss):
            self.refused[one.method] = f"{one}: its loss is not finite after {last.round} rounds"
            return None
        if 2 * (none := lost(reports)) > last.round:  # what is left is a model that nobody trains any more
            self.refused[one.method] = f"{one}: no client's update could be used in {none} of {last.round} rounds"
            return None
        return Play(last.round, last.loss, last.accuracy, sums[0], sums[-1], last.round < rounds)


def held_out(task: Task, key: Key) -> Task:
    """The task with a part of its clients' examples as the test set, instead of its own."""
    x, y = task.pairs
    many = [c for c, part in enumerate(task.parts) if len(part) >= FEW and c not in task.unfit]
    if not many:
        raise LocalError(f"a rehearsal needs a client with {FEW} examples or more, to hold some out")
    rest, tests = hold_out([task.parts[c] for c in many], HELD_OUT, key.fold("rehearsal"))
    shorter = dict(zip(many, rest, strict=True))
    parts = [shorter.get(c, part) for c, part in enumerate(task.parts)]
    rows = torch.from_numpy(np.concatenate(tests))
    return replace(task, parts=parts, test_x=x[rows], test_y=y[rows], holdout=())
