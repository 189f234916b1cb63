"""Quarantine: clients whose replies could not be used, and how long they rest."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Quarantine:
    """After `strikes` offences in a row a client rests for `rest` rounds.

    Args:
        strikes: offences in a row before a rest.
        rest: rounds without a request.

    Example:
        >>> quarantine = Quarantine(strikes=2, rest=3)
        >>> quarantine.offend(client=7, round=1), quarantine.offend(client=7, round=2)
        ('offence 1 of 2', 'not asked again until after round 5')
        >>> quarantine.resting(7, round=5), quarantine.resting(7, round=6)
        (True, False)
    """

    strikes: int = 3  # in a row; smaller: a client rests sooner
    rest: int = 10  # rounds; larger: it rests for longer
    offences: dict[int, int] = field(default_factory=dict)  # of all time, by client
    row: dict[int, int] = field(default_factory=dict)  # since the last reply that counted
    until: dict[int, int] = field(default_factory=dict)  # the last round of a client's rest

    def offend(self, client: int, round: int) -> str:
        """Count one offence; its consequence, as the end of a sentence."""
        self.offences[client] = self.offences.get(client, 0) + 1
        self.row[client] = self.row.get(client, 0) + 1
        if self.row[client] < self.strikes:
            return f"offence {self.row[client]} of {self.strikes}"
        self.row[client], self.until[client] = 0, round + self.rest
        return f"not asked again until after round {round + self.rest}"

    def behave(self, client: int) -> None:
        """End the row of offences, after an accepted reply."""
        self.row.pop(client, None)

    def resting(self, client: int, round: int) -> bool:
        """Whether the client is not asked in this round."""
        return round <= self.until.get(client, 0)

    def begin(self) -> None:
        """Another run begins, with nobody at rest."""
        self.row.clear()
        self.until.clear()

    def dump(self) -> dict[str, dict[str, int]]:
        """For JSON."""
        return {name: {str(c): n for c, n in getattr(self, name).items()} for name in ("offences", "row", "until")}

    def load(self, dumped: dict[str, dict[str, int]]) -> None:
        """Undo `dump`."""
        for name, table in dumped.items():
            setattr(self, name, {int(c): n for c, n in table.items()})
