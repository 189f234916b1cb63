"""Clipping again after decoding: what error feedback adds to a clipped update must not pass the clip.

Flower's client-side mods (fixedclipping_mod, adaptiveclipping_mod) clip what a client trained. Our mod then sends part
of it, with what it did not send before, which may be longer than the clip. Noise that a server adds counts on the clip.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from flwr.app import RecordDict

CLIP = "clipping_norm"  # Flower's name, in a message's configuration, for the norm that its mods clip to
ROUNDING = 1e-6  # of the norm: what a client clipped is that much longer in float32, and arrives as it is


def clip_of(content: RecordDict) -> float | None:
    """The norm that a client is told to clip to; None when it is told none."""
    for record in content.config_records.values():
        found = record.get(CLIP)
        if isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found) and found > 0:
            return float(found)
    return None


def clip_factor(moved: Iterable[np.ndarray], norm: float) -> float:
    """By what to scale an update: norm / its length over all arrays, or 1.0 for one that is no longer than `norm`.

    >>> clip_factor([np.array([3.0]), np.array([4.0])], 1.0), clip_factor([np.array([3.0])], 5.0)
    (0.2, 1.0)
    """
    length = math.sqrt(sum(float(np.square(np.abs(x.astype(np.result_type(x, np.float64)))).sum()) for x in moved))
    return norm / length if length > norm * (1 + ROUNDING) else 1.0
