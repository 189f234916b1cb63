"""NormWatch: the norms of past rounds, and which updates of this one are too long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import le
from statistics import median_high

import torch
from torch import Tensor

from fewbits.errors import WireError
from fewbits.federated.arrived import Arrived
from fewbits.federated.exchange import Exchange
from fewbits.learn import shared_values
from fewbits.learn.aggregation import NormBound
from fewbits.learn.aggregation.past_norms import FEWEST, PastNorms

KINDS = ("parameters", "buffers", "control variates")
STARTS = ("", shared_values.BUFFER, shared_values.CONTROL)  # of the names of each kind

Norms = tuple[float, ...]  # one per kind


def kinds_of(exchange: Exchange) -> list[int]:
    """What each group of tensors of a message holds, as a position in KINDS."""
    names = [name for name, _ in exchange.sent]
    firsts = [names[group.members[0]] if group.members else "" for group in exchange.up.groups(exchange.sent)]
    return [next((i for i in (1, 2) if name.startswith(STARTS[i])), 0) for name in firsts]


class NormWatch:
    """The medians of the last rounds, one list per kind of tensor."""

    def __init__(self, bound: NormBound, exchange: Exchange) -> None:
        self.bound, self._kinds = bound, kinds_of(exchange)
        self._seen = [PastNorms(bound) for _ in KINDS]
        self._most: list[float] | None = None  # of each kind, by the past rounds; they change between rounds alone

    def norms(self, update: Arrived) -> Norms:
        """The norm of an update, for each kind of tensor."""
        squares = [0.0] * len(KINDS)
        for k, part in zip(self._kinds, update.parts, strict=True):
            squares[k] = math.hypot(squares[k], part.norm)
        return tuple(squares)

    def enter(self, norms: Norms) -> bool:
        """Count an update that was received; whether it is within the bound of the past rounds.

        A client that trained and left all buffers as they were counts as one: most buffers are constants.
        """
        trained = norms[0] > 0
        for k, (seen, found) in enumerate(zip(self._seen, norms, strict=True)):
            seen.enter(found, zero=trained and k in self._kinds and k > 0)
        if self._most is None:
            self._most = [self.bound.times * seen.usual for seen in self._seen]
        return all(map(le, norms, self._most))

    def check(self, norms: Norms) -> None:
        """WireError for an update beyond the bound of the past rounds and of this one."""
        for kind, seen, found in zip(KINDS, self._seen, norms, strict=True):
            usual = max(seen.usual, median_high(seen.round) if len(seen.round) >= FEWEST else 0.0)
            if seen.enough and self.bound.times * usual < found:
                raise WireError(
                    f"the 2-norm of its {kind}' update is {found:.4g}, more than {self.bound.times:g} times the "
                    f"median client's, {usual:.4g}"
                )

    def close(self) -> None:
        """End the round."""
        self._most = None
        for seen in self._seen:
            seen.close()

    def clear(self) -> None:
        """Forget this round's norms."""
        for seen in self._seen:
            seen.round.clear()

    def dump(self) -> list[Tensor]:
        """The past, for a checkpoint.  # one of (m, 3), float64: kind, median, how many"""
        rows = [(k, *entry) for k, seen in enumerate(self._seen) for entry in seen.past]
        return [torch.tensor(rows, dtype=torch.float64).reshape(-1, 3)]

    def load(self, dumped: Sequence[Tensor]) -> None:
        """Become the watch that was dumped; a new one, when nothing was."""
        self._seen, self._most = [PastNorms(self.bound) for _ in KINDS], None
        for k, found, count in (row for table in dumped for row in table.tolist()):
            self._seen[int(k)].past.append((found, int(count)))
