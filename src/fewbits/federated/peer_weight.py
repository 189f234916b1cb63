"""PeerWeight: which numbers of examples a peer may claim."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import cast

from fewbits.errors import LocalError, WireError

LEAST, MOST = 1e-9, 1e8

Most = float | Mapping[int, float] | None


@dataclass(frozen=True, eq=False)
class PeerWeight:
    """A weight is the peer's word, and a mean is only as good as its weights.

    At least 1e-9; at most `given`, a number for all or one per client, else `everybody`, else 1e8.
    """

    given: Most
    everybody: float | None  # total_weight
    counted: bool = True  # whether it is a sum of examples; else it counts clients, and is no bound on examples

    def __post_init__(self) -> None:
        numbers = list(self.given.values()) if isinstance(self.given, Mapping) else [self.given]
        for number in numbers if self.given is not None else []:
            if not _positive(number):
                raise LocalError(f"Server: max_weight must be a finite number above 0; got {number!r}")
        if self.everybody is not None and not _positive(self.everybody):
            raise LocalError(f"Server: total_weight must be a finite number above 0; got {self.everybody!r}")

    def most(self, client: int | None) -> float:
        """The largest weight that this client may claim."""
        found = self.given if not isinstance(self.given, Mapping) else self.given.get(-1 if client is None else client)
        everybody = self.everybody if self.counted else None
        return next((float(x) for x in (found, everybody) if x is not None), MOST)

    def check(self, weight: object, client: int | None = None) -> float:
        """The weight as a number; WireError when it is none, or out of bounds."""
        most = self.most(client)
        if not _positive(weight) or not LEAST <= float(cast("float", weight)) <= most * (1 + 1e-9):
            sender = "" if client is None else f" of client {client}"
            raise WireError(
                f"weight must be > 0, a number in {LEAST:g}..{most:g}, so that a sum stays in float32's range and no "
                f"client counts for more than it has; got {weight!r}{sender}"
            )
        return float(cast("float", weight))


def _positive(x: object) -> bool:
    """Whether x is a finite number above 0."""
    try:
        if type(x) is int or type(x) is float:  # at once: a look into the table of abstract classes takes longer
            return 0 < float(x) < math.inf
        return isinstance(x, Real) and not isinstance(x, bool) and 0 < float(x) < math.inf
    except OverflowError:  # a whole number beyond the largest float
        return False
