"""What rehearsals found: candidates with their plays, and which of them are best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fewbits.engines.common.schedule import NO_CAP

HOPE = 2.0  # a loss is expected to fall so many times as fast as it did, so that few good candidates are given up
METHODS = 2  # so many methods are climbed from: the best one's rate may not be found yet

Merit = tuple[float, float]  # the larger the better


@dataclass(frozen=True)
class Candidate:
    """A method as text, and the clients' learning rate in its first round.

    >>> str(Candidate("topk", 0.1)), str(Candidate("topk", 0.1, falls=False))
    ('topk at learning rate 0.1', 'topk at the constant learning rate 0.1')
    """

    method: str
    lr: float
    falls: bool = True  # to a tenth, over all rounds; else the rate is constant

    def __str__(self) -> str:
        return f"{self.method} at {'' if self.falls else 'the constant '}learning rate {self.lr:.3g}"


@dataclass(frozen=True)
class Play:
    """One rehearsal: a whole short run."""

    rounds: int
    loss: float  # of the model at the end, on examples that were held out
    accuracy: float | None  # on them
    first: int  # bytes of the first round, both directions
    bytes: int  # of all rounds
    ended: bool = False  # by the budget

    @property
    def merit(self) -> Merit:
        """What makes one of several rehearsals the best: the accuracy, where there is one, and then the loss."""
        return (-1.0 if self.accuracy is None else self.accuracy, -self.loss)


WORST = Play(0, math.inf, None, 0, 0)


@dataclass(frozen=True)
class Rehearsed:
    """A candidate after its rehearsals.

    Example:
        >>> plays = (Play(4, 2.0, 0.3, 100, 400), Play(8, 1.0, 0.6, 100, 800))
        >>> one = Rehearsed(Candidate("topk", 0.1), plays)
        >>> one.rounds(3200), one.hope(32)
        (32, 0.0625)
    """

    candidate: Candidate
    plays: tuple[Play, ...]  # each longer than the one before

    @property
    def last(self) -> Play:
        """The longest rehearsal."""
        return self.plays[-1]

    @property
    def opening(self) -> Play:
        """The longer one of the first two."""
        return self.plays[min(1, len(self.plays) - 1)]

    @property
    def cost(self) -> float:
        """Mean bytes of a round after the first, in which clients get a seed instead of a model."""
        later = self.last.rounds - 1
        return (self.last.bytes - self.last.first) / later if later else self.last.bytes

    def rounds(self, budget: int | None, most: int = NO_CAP) -> int:
        """How many rounds so many bytes buy, at most `most`."""
        if self.last.ended:
            return self.last.rounds
        if budget is None:
            return most
        return min(most, max(0, 1 + int((budget - self.last.first) // max(1.0, self.cost))))

    def hope(self, rounds: int) -> float:
        """The loss after so many rounds: as it fell in the last rehearsals, by a power of the rounds, or faster."""
        last = self.last
        if rounds <= last.rounds or len(self.plays) == 1:
            return last.loss
        before = self.plays[-2]
        slope = math.log(max(before.loss, 1e-9) / max(last.loss, 1e-9)) / math.log(last.rounds / before.rounds)
        return last.loss * (last.rounds / rounds) ** (HOPE * max(0.0, slope))


def family(method: str) -> str:
    """A method without its options.

    >>> family("topk@fraction=0.01")
    'topk'
    """
    return method.partition("@")[0]


def best_methods(complete: Sequence[Rehearsed]) -> list[Rehearsed]:
    """The best rehearsals of different methods, whatever their dimensions and bits; two at most, the best first."""
    found: dict[str, Rehearsed] = {}
    for one in sorted(complete, key=lambda one: one.last.merit, reverse=True):
        found.setdefault(family(one.candidate.method), one)
    return list(found.values())[:METHODS]


def frontier(done: Sequence[Rehearsed]) -> list[Rehearsed]:
    """Those of which no other one is as cheap and better in its first rehearsals, or cheaper and as good; by cost."""
    found: list[Rehearsed] = []
    for one in sorted(done, key=lambda one: (one.cost, one.opening.loss)):
        if not found or one.opening.merit > found[-1].opening.merit:
            found.append(one)
    return found
