"""AbsurdValues: what a node does with a neighbour's numbers that would end its training."""

from __future__ import annotations

import torch
from torch import Tensor

from fewbits.errors import WireError

LARGEST, TIMES = 1e12, 1e3  # of an entry that is taken; and as a multiple of this node's largest


class AbsurdValues:
    """Leave out what is far beyond this node's own size, and count it; the round goes on without it.

    An entry is taken up to ``min(1e12, 1e3 * (1 + largest entry of this node))``. This stops numbers that overflow. It
    stops no lie of usual size, because a node has no majority to compare with.
    """

    def __init__(self) -> None:
        self.left_out: dict[int, int] = {}  # frames, by neighbour
        self.reasons: dict[int, str] = {}  # why the last one was

    def without(self, j: int, round: int, increment: Tensor, ours: Tensor, no_news: Tensor) -> Tensor:
        """Neighbour j's increment; where it is absurd, `no_news`: as if j held what it, or this node, held before."""
        reason = beyond(increment, ours)
        if not reason:
            return increment
        self.left_out[j] = self.left_out.get(j, 0) + 1
        self.reasons[j] = f"round {round}: {reason}"
        return no_news


def check(vector: Tensor, ours: Tensor) -> None:
    """WireError for a vector that is beyond what is taken.  # (S,) each"""
    if reason := beyond(vector, ours):
        raise WireError(reason)


def beyond(vector: Tensor, ours: Tensor) -> str:
    """Why a vector is not taken; "" when it is.  # (S,) each"""
    largest = _largest(vector)
    if largest <= TIMES:
        return ""
    most = min(LARGEST, TIMES * (1.0 + _largest(ours)))
    return "" if largest <= most else f"values up to {largest:.3g} came, and at most {most:.3g} are taken"


def _largest(x: Tensor) -> float:
    if not x.numel():
        return 0.0
    low, high = torch.aminmax(x)
    return max(-float(low), float(high))
