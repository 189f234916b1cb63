"""How long a run is: by its rounds, by its bytes, or by both."""

from __future__ import annotations

from dataclasses import dataclass

from fewbits.engines.common.schedule import NO_CAP
from fewbits.sizes import read_budget, short_size

ROUNDS = 50  # of a run without a budget, by default


@dataclass(frozen=True)
class Length:
    """The most rounds and the most bytes of a run."""

    rounds: int
    budget: int | None  # bytes, both directions; None: no limit

    @property
    def config(self) -> dict[str, object]:
        """Both, as a report lists them; what sets no limit is left out."""
        rounds = None if self.rounds == NO_CAP else self.rounds
        return {name: x for name, x in (("rounds", rounds), ("budget", self.budget)) if x is not None}

    @property
    def said(self) -> str:
        """Both, as the end of a sentence about the clients of a round.

        >>> Length(5, None).said, Length(NO_CAP, 2_000_000).said
        ('in each of 5 rounds', 'in each round, up to 2 MB')
        """
        rounds = "in each round" if self.rounds == NO_CAP else f"in each of {self.rounds} rounds"
        return rounds if self.budget is None else f"{rounds}, up to {short_size(self.budget)}"


def lengths(rounds: int | None, budget: int | str | None, clients: int) -> Length:
    """The length that an entry point's arguments mean; LocalError when the budget is no size."""
    found = None if budget is None else read_budget(budget, clients)
    return Length((ROUNDS if found is None else NO_CAP) if rounds is None else rounds, found)
