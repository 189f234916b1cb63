"""NormWatch: the norms of past rounds, and which updates of this one are too long."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fewbits.errors import WireError
from fewbits.federated.arrived import Arrived, norm
from fewbits.federated.exchange import Exchange
from fewbits.learn import shared_values
from fewbits.learn.aggregation import NormBound

KINDS = ("parameters", "buffers", "control variates")
STARTS = ("", shared_values.BUFFER, shared_values.CONTROL)  # of the names of each kind
FEWEST = 3  # norms that have a median worth the name

Norms = tuple[float, ...]  # one per kind
Past = list[tuple[float, int]]  # (median, how many) of each round


def kinds_of(exchange: Exchange) -> list[int]:
    """What each group of tensors of a message holds, as a position in KINDS."""
    names = [name for name, _ in exchange.sent]
    firsts = [names[group.members[0]] if group.members else "" for group in exchange.up.groups(exchange.sent)]
    return [next((i for i in (1, 2) if name.startswith(STARTS[i])), 0) for name in firsts]


class NormWatch:
    """The medians of the last rounds, one list per kind of tensor."""

    def __init__(self, bound: NormBound, exchange: Exchange) -> None:
        self.bound, self._kinds = bound, kinds_of(exchange)
        self._past: list[Past] = [[] for _ in KINDS]
        self._round: list[list[float]] = [[] for _ in KINDS]  # norms of this round, all that were received

    def norms(self, update: Arrived) -> Norms:
        """The norm of an update, for each kind of tensor."""
        squares = [0.0] * len(KINDS)
        for k, part in zip(self._kinds, update.parts, strict=True):
            squares[k] = math.hypot(squares[k], norm(part))
        return tuple(squares)

    def enter(self, norms: Norms) -> bool:
        """Count an update that was received; whether it is within the bound of the past rounds."""
        for seen, found in zip(self._round, norms, strict=True):
            if found > 0:
                seen.append(found)
        return all(found <= self.bound.times * _typical(past) for past, found in zip(self._past, norms, strict=True))

    def check(self, norms: Norms) -> None:
        """WireError for an update beyond the bound of the past rounds and of this one."""
        for k, found in enumerate(norms):
            typical = max(_typical(self._past[k]), _median(self._round[k]) if len(self._round[k]) >= FEWEST else 0.0)
            if 0 < self.bound.times * typical < found:
                raise WireError(
                    f"the 2-norm of its {KINDS[k]}' update is {found:.4g}, more than {self.bound.times:g} times the "
                    f"median client's, {typical:.4g}"
                )

    def close(self) -> None:
        """End the round."""
        for past, seen in zip(self._past, self._round, strict=True):
            if seen:
                past.append((_median(seen), len(seen)))
                del past[: -self.bound.rounds]
                seen.clear()

    def clear(self) -> None:
        """Forget this round's norms."""
        for seen in self._round:
            seen.clear()

    def dump(self) -> list[Tensor]:
        """The past, for a checkpoint.  # one of (m, 3), float64: kind, median, how many"""
        rows = [(k, *entry) for k, past in enumerate(self._past) for entry in past]
        return [torch.tensor(rows, dtype=torch.float64).reshape(-1, 3)]

    def load(self, dumped: Sequence[Tensor]) -> None:
        """Become the watch that was dumped; a new one, when nothing was."""
        self._past = [[] for _ in KINDS]
        for k, found, count in (row for table in dumped for row in table.tolist()):
            self._past[int(k)].append((found, int(count)))
        self.clear()


def _typical(past: Past) -> float:
    """The median of the rounds' medians; 0 when too few updates were seen."""
    enough = sum(count for _, count in past) >= FEWEST
    return _median([found for found, _ in past]) if enough else 0.0


def _median(values: Sequence[float]) -> float:
    """The upper of two middle values; 0 of none."""
    return sorted(values)[len(values) // 2] if values else 0.0
