"""How many of a round's clients must arrive."""

from __future__ import annotations

import math


def needed(share: float, clients: int) -> int:
    """The threshold: this share of the clients, rounded up, more than half of them, and 2 or more.

    More than half: two halves of the clients then cannot be asked for different shares of the same client.

    >>> [needed(2 / 3, n) for n in (2, 3, 4, 6, 20, 100)]
    [2, 2, 3, 4, 14, 67]
    """
    return max(2, clients // 2 + 1, math.ceil(share * clients - 1e-9))
