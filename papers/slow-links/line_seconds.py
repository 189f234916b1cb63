"""Seconds of a run on lines of given speed: computed from its measured frames, its measured inner steps and its codec.

Nothing here was sent over a line. An exchange takes what `fewbits plan --bandwidth` says: twice the latency, the bytes
over the bandwidth, and the codec's processor time; a ring all-reduce has a latency for each of its messages.
"""

from __future__ import annotations

from typing import Any

from fewbits.analysis.forecast.ranks import RankForecast, RankLine

MBIT, LATENCY = (10, 100, 1000), 0.01  # s, one way
LINES = [RankLine(1e6 * speed, LATENCY) for speed in MBIT]


def seconds(run: dict[str, Any], line: RankLine, compute: float, at: int = -1) -> float:
    """Until this point of the run's curve, with inner steps of `compute` seconds.

    Args:
        run: a result of run.py; its curve has (inner steps, exchanges, bytes that a rank sent, loss).
        line: of each rank.
        compute: seconds of an inner step of one rank.
        at: which point of the curve.
    """
    steps, exchanges, sent, _ = run["curve"][at]
    mean = RankForecast(run["case"], 0, sent / max(1, exchanges), run["messages"], run["codec_seconds"])
    return steps * compute + exchanges * mean.exchange_seconds(line)
