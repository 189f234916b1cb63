"""The chart of a page: the figures that the browser draws, and what stands there without scripts."""

import json
import math
import re
import shutil
import subprocess

import pytest

from fewbits.engines.simulation import RoundReport
from fewbits.report.chart import MOST, chart, script
from fewbits.report.record import Record


def report(number, **more):
    known = dict.fromkeys(("accuracy", "loss", "train_loss", "recycled", "floor"))
    counts = {"up_payload_bytes": 1, "down_payload_bytes": 1, "clients": 2, "skipped": 0, "rejected": 0}
    sums = {"up_frame_bytes": 100 * number, "down_frame_bytes": 30 * number, "seconds": number / 3}
    return RoundReport(**{"round": number} | known | counts | sums | more)


def record(method, seed, *reports):
    return Record(method, seed, reports, {"header": 1}, {"header": 1})


def data_of(html):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)[1])


def test_the_browser_gets_all_evaluated_rounds_of_all_runs():
    first = record("dense", 0, report(1, accuracy=0.5, loss=1.5), report(2), report(3, loss=0.5))
    second = record("topk", 4, report(2, accuracy=0.25, loss=2.0, metric=0.75, metric_name="f1"))
    data = data_of(chart([first, second], "caption", "<img>"))
    assert data["methods"] == ["dense", "topk"] and data["values"] == ["test accuracy", "test loss", "f1"]
    assert data["runs"][0] == {
        "method": "dense",
        "seed": 0,
        "round": [1, 3],
        "up": [100, 300],
        "down": [30, 90],
        "seconds": [0.333, 1.0],
        "values": {"test accuracy": [0.5, None], "test loss": [1.5, 0.5], "f1": [None, None]},
    }
    assert data["runs"][1]["values"] == {"test accuracy": [0.25], "test loss": [2.0], "f1": [0.75]}


def test_what_is_shown_first_is_what_the_picture_shows():
    data = data_of(chart([record("dense", 0, report(1, loss=2.0, metric=0.5, metric_name="r2"))], "", ""))
    assert data["values"] == ["r2", "test loss"]


def test_values_that_are_not_finite_are_no_points():
    values = data_of(chart([record("dense", 0, report(1, loss=2.0), report(2, loss=math.inf))], "", ""))
    assert values["runs"][0]["round"] == [1]
    assert chart([record("dense", 0, report(1, loss=math.nan), report(2))], "caption", "<img>") == ""


def test_names_cannot_end_the_script_or_the_caption():
    html = chart([record("</script><b>", 0, report(1, loss=1.0))], "a < b", "<i>picture</i>")
    assert html.count("</script>") == 1 and "<b>" not in html and "a &lt; b" in html
    assert "<noscript><i>picture</i></noscript>" in html and data_of(html)["methods"] == ["</script><b>"]


def test_a_long_run_is_thinned_and_the_page_says_so():
    long = record("dense", 0, *(report(number, loss=1.0) for number in range(1, 2 * MOST + 2)))
    html = chart([long, record("topk", 0, report(1, loss=1.0))], "Fewer.", "")
    assert "It has one evaluated round of 3, and the last one." in html
    rounds = data_of(html)["runs"][0]["round"]
    assert len(rounds) == -(-(2 * MOST + 1) // 3) + 1 and rounds[-2:] == [2 * MOST - 1, 2 * MOST + 1]
    assert "It has one" not in chart([record("dense", 0, report(1, loss=1.0))], "Fewer.", "")


def test_seeds_of_unlike_length_keep_common_rounds():
    seeds = [record("dense", n, *(report(i, loss=1.0) for i in range(1, n * MOST + 1))) for n in (2, 3)]
    short, long = (set(run["round"]) for run in data_of(chart(seeds, "", ""))["runs"])
    assert len(short & long) >= len(short) - 1


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
def test_the_script_is_javascript(tmp_path):
    (tmp_path / "chart.js").write_text(script())
    subprocess.run(["node", "--check", tmp_path / "chart.js"], check=True, capture_output=True)
    assert "</script" not in script()
