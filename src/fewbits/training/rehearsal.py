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
from fewbits.errors import LocalError
from fewbits.factor.derived import duplicate
from fewbits.methods import build
from fewbits.rng import Key
from fewbits.training.rehearsed import WORST, Candidate, Play, Rehearsed, best_methods

ROUNDS = 8  # of every candidate's first rehearsal, by default
LONGEST = 16  # times as many rounds the longest rehearsal has
SHARES = (4, 16, 64, 256)  # a subspace has this part of the model's numbers
LEAST = 64  # numbers of a subspace, where the model has many times as many
FACTOR = 3.0  # from one learning rate to the next
NEARLY = 0.9  # of the rounds that a budget seems to buy: a rehearsal of so many stands for all
HELD_OUT = 0.2  # of a client's examples: what rehearsals are judged by, as a run never trains on its test set
FEW = 5  # a client with fewer examples holds none out

Say = Callable[[str], None]


def candidates(numbers: int) -> list[str]:
    """What is tried at first for a model of so many numbers, fine and coarse.

    >>> candidates(100_000)[3:5]
    ['intrinsic+deadzone@dim=25000,bits=2,down=own4', 'intrinsic+deadzone@dim=6250,bits=2,down=own4']
    """
    sparse = "topk@fraction=0.01,down=own4"
    return ["dense", sparse, f"fedpara+{sparse}", *inside(numbers, 2)]


def inside(numbers: int, bits: int) -> list[str]:
    """Subspaces of a model of so many numbers, the largest first; downlinks are finer than what is sent up."""
    dims = [numbers // share for share in SHARES if numbers // share >= min(LEAST, numbers // SHARES[0])]
    return [f"intrinsic+deadzone@dim={dim},bits={bits},down=own{2 * bits}" for dim in dims]


def rounded(lr: float) -> float:
    """A rate in six digits, so that three times a third of it is the same one."""
    return float(f"{lr:.6g}")


class Rehearsal:
    """Plays candidates on a task: all for few rounds, and some to the end of the budget.

    A candidate is a method at a learning rate. `open` plays all of them for few rounds. `search` plays each method to
    the end of the budget, at the rate whose loss may become lowest. From the best of the two best methods each, it
    plays what is beside them to the end, too: higher and lower rates, more and fewer bits and numbers. It moves to a
    better one, until there is none. What it ends with is played once more, with other clients in each round. Rounds
    beyond the longest rehearsal count for nothing. No byte travels.

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
        self._rates, self._say = rates, say
        self._plays: dict[Candidate, tuple[Play, ...]] = {}
        numbers = sum(p.numel() for p in task.model.parameters() if p.requires_grad)
        self._methods, self._inside = candidates(numbers), (inside(numbers, 2), inside(numbers, 1))
        self.refused: dict[str, str] = {}  # why a method could not be played

    @property
    def done(self) -> list[Rehearsed]:
        """All that were played, in the order in which they were first."""
        return [Rehearsed(one, plays) for one, plays in self._plays.items() if plays]

    @property
    def best_rates(self) -> list[Rehearsed]:
        """Each method at its best rate: the one that was played longest, then the one of the least loss."""
        found: dict[str, Rehearsed] = {}
        for one in sorted(self.done, key=lambda one: (-one.last.rounds, one.last.loss)):
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

    def search(self) -> Rehearsed:
        """The candidate that is best at the end of the budget, better than all that are beside it."""
        for method in self._methods:  # each to its end: a loss may stand still for long before it falls
            if rates := [one for one in self.done if one.candidate.method == method]:
                self._whole(min(rates, key=lambda one: one.hope(self._end(one))).candidate)
        complete = [one for one in self.done if self.is_complete(one)]
        if not complete:
            raise LocalError("no candidate could be rehearsed to its end: " + "; ".join(self.refused.values()))
        climbed = [self._climb(one) for one in best_methods(complete)]
        return max(climbed, key=lambda one: self._repeated(one).merit)

    def _climb(self, best: Rehearsed) -> Rehearsed:
        """From one to a better one beside it, until there is none."""
        while True:
            self._say(f"rehearsal: what is beside {best.candidate}")
            found = [Rehearsed(one, plays) for one in self._beside(best.candidate) if (plays := self._whole(one))]
            better = max([best, *found], key=lambda one: one.last.merit)  # ties: the one that was
            if better is best:
                return best
            best = better

    def _repeated(self, one: Rehearsed) -> Play:
        """Its longest rehearsal together with one of other clients: good luck, and a rate at the edge, show there."""
        again = self._played(one.candidate, one.last.rounds, self._key.fold("again"))
        return WORST if again is None else one.last.mean(again)

    def _whole(self, one: Candidate) -> tuple[Play, ...]:
        """The rehearsals of a candidate, after one to its end; none: it diverges, or was refused."""
        self._first(one)
        found = Rehearsed(one, self._plays[one])
        if found.plays and not self.is_complete(found):
            self._play(one, self._end(found))
        return self._plays[one]

    def _beside(self, one: Candidate) -> list[Candidate]:
        """Candidates that differ in one thing: a higher or lower rate; in a subspace fewer or more bits or numbers."""
        methods = list[str]()
        for this, other in (self._inside, self._inside[::-1]):
            if one.method in this:
                at = this.index(one.method)
                methods += [other[at], *this[max(0, at - 1) : at], *this[at + 1 : at + 2]]
        rates = (rounded(one.lr * FACTOR), rounded(one.lr / FACTOR)) if self._rates else ()
        return [*(Candidate(one.method, lr) for lr in rates), *(Candidate(method, one.lr) for method in methods)]

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
            if not (self._plays[one] and self._plays[one][-1].ended):
                self._play(one, rounds)

    def _play(self, one: Candidate, rounds: int) -> None:
        """Play it; a candidate that fails or diverges is out."""
        played = self._played(one, rounds, self._key)
        self._plays[one] = () if played is None else (*self._plays[one], played)

    def _played(self, one: Candidate, rounds: int, key: Key) -> Play | None:
        """One rehearsal; None, and `refused` says why: it fails or diverges."""
        self._say(f"rehearsal: {one}, {rounds} rounds")
        local = replace(sgd(self._task), lr=one.lr, falling=rounds)
        task = replace(self._task, model=duplicate(self._task.model), local=local)
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
