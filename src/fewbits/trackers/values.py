"""The figures of a round as trackers take them: numbers by name."""

from __future__ import annotations

import math

from fewbits.engines.common.history import figures
from fewbits.engines.simulation import RoundReport


def values(report: RoundReport) -> dict[str, float]:
    """Every figure that is a finite number, but for the round; `diverged` is 0 or 1.

    `bytes` are the frame bytes of both directions so far.
    """
    found = {name: x for name, x in figures(report).items() if name != "round" and isinstance(x, int | float)}
    return {name: float(x) for name, x in found.items() if math.isfinite(x)}
