"""NeighbourWatch: which of its neighbours' frames a node leaves out, because they would end or ruin its training."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median_low
from typing import NamedTuple

import torch
from torch import Tensor

from fewbits.codecs.finiteness import norm
from fewbits.learn.aggregation import NormBound
from fewbits.learn.aggregation.past_norms import PastNorms, table

LARGEST, TIMES = 1e12, 1e3  # of an entry that is taken; and as a multiple of this node's largest


class LeftOut(NamedTuple):
    """One frame that a node left out."""

    node: int
    neighbour: int
    why: str


class NeighbourWatch:
    """Find what is far beyond this node's own size, and count what is left out; the round goes on without it.

    An entry is taken up to ``min(1e12, 1e3 * (1 + largest entry of this node))``. That stops numbers that overflow.

    A neighbour's change counts up to ``times * max(r, m)`` in the 2-norm. m is the norm of this node's own change in
    this round. r is the median of the medians of the last rounds, over its own change and its neighbours'; of two
    middle values it is the lower. A change is
    an increment; where frames hold whole models, it is the distance of the neighbour's model from this node's.

    This stops no lie of usual length, because a node has no majority to compare with. Where half of its neighbours or
    more lie, their length is the usual one.
    """

    def __init__(self, node: int, bound: NormBound | None) -> None:
        self.node, self._past = node, PastNorms(bound, median_low) if bound else None
        self._change = 0.0  # the norm of this node's change in this round
        self.left_out: dict[int, int] = {}  # frames, by neighbour
        self.reasons: dict[int, str] = {}  # why the last one was
        self._new: list[LeftOut] = []

    def begin(self, change: Tensor) -> None:
        """This node's own change in this round, (S,)."""
        if self._past is not None:
            self._change = norm(change)
            self._past.enter(self._change)

    def refuses(self, j: int, round: int, vector: Tensor, ours: Tensor, change: Tensor | None) -> bool:
        """Whether what neighbour j sent is left out; it is counted then.

        `vector`: what its frame holds; `ours`: this node's model; `change`: the neighbour's, where it is known. (S,)
        """
        why = beyond(vector, ours, increment=change is vector) or ("" if change is None else self._too_long(change))
        if why:
            self.count(j, round, why)
        return bool(why)

    def _too_long(self, change: Tensor) -> str:
        if self._past is None:
            return ""
        found = norm(change)
        self._past.enter(found)
        usual, times = max(self._past.usual, self._change), self._past.bound.times
        if found <= times * usual or not usual:
            return ""
        return f"the 2-norm of its change is {found:.4g}, more than {times:g} times the usual one, {usual:.4g}"

    def count(self, j: int, round: int, why: str) -> None:
        """Count a frame of neighbour j as left out."""
        self.left_out[j] = self.left_out.get(j, 0) + 1
        self.reasons[j] = f"round {round}: {why}"
        self._new.append(LeftOut(self.node, j, why))

    def taken(self) -> list[LeftOut]:
        """What was left out since this was asked last."""
        found, self._new = self._new, []
        return found

    def close(self) -> None:
        """End the round."""
        self._change = 0.0
        if self._past is not None:
            self._past.close()

    def dump(self) -> Tensor:
        """The usual norms, for a checkpoint.  # (m, 2), float64"""
        return table(self._past.past if self._past else ())

    def load(self, dumped: Tensor) -> None:
        """Take the usual norms of a dump."""
        if self._past is not None:
            self._past.past = _pairs(dumped.tolist())


def beyond(vector: Tensor, ours: Tensor, increment: bool = True) -> str:
    """Why a vector is not taken; "" when it is.  # (S,) each

    What a model has as this node has it, such as the large numbers of a mask, is never too large.
    """
    largest = _largest(vector)
    if largest > TIMES and not increment:
        largest = _largest(vector[vector != ours])
    if largest <= TIMES:
        return ""
    most = min(LARGEST, TIMES * (1.0 + _largest(ours)))
    return "" if largest <= most else f"values up to {largest:.3g} came, and at most {most:.3g} are taken"


def _largest(x: Tensor) -> float:
    if not x.numel():
        return 0.0
    low, high = torch.aminmax(x)
    return max(-float(low), float(high))


def _pairs(rows: Sequence[Sequence[float]]) -> list[tuple[float, int]]:
    return [(found, int(count)) for found, count in rows]
