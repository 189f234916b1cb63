"""papers/slow-links/line_seconds.py: seconds of a run are those that `fewbits plan --bandwidth` gives its frames."""

import importlib.util
from pathlib import Path

import pytest

from fewbits.analysis.forecast.ranks import RankForecast, RankLine, all_reduce

PATH = Path(__file__).parents[1] / "papers" / "slow-links" / "line_seconds.py"
SPEC = importlib.util.spec_from_file_location("line_seconds", PATH)
assert SPEC is not None and SPEC.loader is not None
line_seconds = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(line_seconds)


def run_of(forecast: RankForecast, every: int, exchanges: int) -> dict:
    """A run of equal frames, with a point after each exchange."""
    curve = [[every * i, i, forecast.sent_bytes * i, 0.0] for i in range(1, exchanges + 1)]
    return {"case": "", "curve": curve, "messages": forecast.messages, "codec_seconds": forecast.codec_seconds}


@pytest.mark.parametrize("line", [*line_seconds.LINES, RankLine(3e5)])
def test_outer_steps_take_what_the_forecast_says_for_each(line):
    one = RankForecast("topk", 1000, 3000, 2, codec_seconds=0.25)
    run = run_of(one, 30, 7)
    for at in range(7):
        assert line_seconds.seconds(run, line, 0.02, at) == pytest.approx((at + 1) * one.seconds(line, 30, 0.02))


@pytest.mark.parametrize("line", line_seconds.LINES)
def test_data_parallel_takes_a_ring_in_every_step(line):
    ring = all_reduce(1_000_000, 4)
    assert line_seconds.seconds(run_of(ring, 1, 50), line, 0.02) == pytest.approx(ring.seconds(line, 50, 0.02))


def test_frames_that_differ_count_by_their_sum():
    line, run = RankLine(8e6), run_of(RankForecast("lbgm", 0, 0, 2), 1, 3)
    run["curve"][-1][2] = 1_000_000 + 20 + 2_000_000
    assert line_seconds.seconds(run, line, 0.5) == pytest.approx(1.5 + 3.00002)


def test_before_its_first_exchange_a_run_computes_only():
    run = run_of(RankForecast("topk", 0, 0, 2), 1, 1)
    run["curve"] = [[10, 0, 0, 0.0]]
    assert line_seconds.seconds(run, line_seconds.LINES[0], 0.5) == pytest.approx(5)
