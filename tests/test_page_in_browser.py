"""The page in a real browser, on a telephone and on a desk: what fits, and what pointers and buttons do."""

import csv
import io
import itertools

import pytest

from browser import ask, needs_browser
from fewbits.engines.simulation import RoundReport
from fewbits.report.page import document
from fewbits.report.record import Record, against_dense
from fewbits.report.table import rows
from fewbits.report.tasks import report_of_tasks
from fewbits.report.training import report
from fewbits.report.write import write

pytestmark = needs_browser
LONG = "lbgm+topk@threshold=0.5,fraction=0.01,bits=8,down=lbgm,resend=0.25 (rounds=20, lr=0.05, batch-size=20)"
FITS = """
const cut = [...document.querySelectorAll(".wide")].filter((x) => x.scrollWidth > x.clientWidth).length;
return [innerWidth, document.documentElement.scrollWidth <= document.documentElement.clientWidth, cut];
"""
HOVER = """
const svg = document.querySelector(".chart svg"), box = svg.getBoundingClientRect();
const dot = svg.querySelectorAll("circle")[0], tip = document.querySelector(".tip");
const at = { clientX: box.left + Number(dot.getAttribute("cx")), clientY: box.top + Number(dot.getAttribute("cy")) };
svg.dispatchEvent(new PointerEvent("pointermove", at));
const place = tip.getBoundingClientRect();
const shown = [tip.hidden, [...tip.children].map((x) => x.textContent), place.left >= 0 && place.right <= innerWidth];
svg.dispatchEvent(new PointerEvent("pointerleave"));
return [...shown, tip.hidden];
"""


def round_report(number, accuracy, loss=1.0, scale=1000, **more):
    known = dict.fromkeys(("train_loss", "recycled", "floor"))
    counts = {"up_payload_bytes": 1, "down_payload_bytes": 1, "clients": 9, "skipped": 1, "rejected": 0}
    sums = {"up_frame_bytes": scale * number, "down_frame_bytes": 2 * scale * number, "seconds": number / 3}
    told = {"round": number, "accuracy": accuracy, "loss": loss, "metric": 0.5, "metric_name": "f1"}
    return RoundReport(**known | counts | sums | told | more)


def record(method, seed, reports):
    return Record(method, seed, tuple(reports), {"header": 800, "Fixed": 80_000}, {"first contact": 70_000})


def runs():
    """Two seeds of a dense run and of one with a long name, and a third method."""
    found = []
    for seed in (0, 1):
        rise = 0.1 * seed
        found += [
            record("dense", seed, [round_report(n, 0.1 * n + rise) for n in (1, 2, 3)]),
            record(LONG, seed, [round_report(n, 0.05 * n + rise, scale=7, recycled=0.5) for n in (1, 2, 3)]),
        ]
    return against_dense([*found, record("topk", 0, [round_report(n, 0.2, scale=50) for n in (1, 2, 3)])])


def page(records, folder, **more):
    found = report("Comparison", records, {"local": "x" * 200, "clients": 3}, [], 0.3, at=(20, 2000), **more)
    write(folder, found)
    return (folder / "report.html").read_text()


def drawn(records, folder, width, script):
    return ask(page(records, folder), width, script, folder)


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_cut_and_the_page_never_scrolls_sideways(width, tmp_path):
    assert drawn(runs(), tmp_path, width, FITS) == [width, True, 0]


@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_of_two_tasks_has_two_charts_that_answer_apart(width, tmp_path):
    tasks = {title: (runs(), rows(runs(), 0.3, (20,))) for title in ("a-task@" + "x" * 60, "another")}
    write(tmp_path, report_of_tasks("10 runs", tasks, {}, [], "From somewhere"))
    script = f"""
    document.querySelectorAll(".legend button")[1].click();
    const lines = [...document.querySelectorAll(".chart")].map((x) => x.querySelectorAll("polyline").length);
    const fits = (() => {{ {FITS} }})();
    return [...fits, lines];
    """
    found = ask((tmp_path / "report.html").read_text(), width, script, tmp_path)
    assert found == [width, True, 0, [2, 3]]


@pytest.mark.parametrize("width", [390, 1280])
def test_hovering_shows_the_method_and_the_values_within_the_window(width, tmp_path):
    hidden, lines, inside, gone = drawn(runs(), tmp_path, width, HOVER)
    assert (hidden, inside, gone) == (False, True, True)
    assert lines == ["dense", "test accuracy 35% (30% to 40%, 2 seeds)", "round 3, 9\u00a0kB both directions"]


def test_a_method_is_hidden_and_shown_again(tmp_path):
    script = """
    const lines = () => document.querySelectorAll(".chart polyline").length;
    const button = document.querySelectorAll(".legend button")[1], found = [lines()];
    for (const _ of [0, 1]) { button.click(); found.push(lines(), button.getAttribute("aria-pressed")); }
    for (const each of document.querySelectorAll(".legend button")) each.click();
    return [...found, document.querySelector(".chart svg").textContent, button.textContent];
    """
    assert drawn(runs(), tmp_path, 390, script) == [3, 2, "false", 3, "true", "nothing to show", LONG]


def test_axes_change_the_picture(tmp_path):
    script = """
    const [value, along] = document.querySelectorAll(".controls select"), found = [];
    for (const name of [...along.options].map((x) => x.value)) {
      along.value = name;
      along.onchange();
      found.push(document.querySelector(".chart .name").textContent);
    }
    document.querySelector(".controls input").click();
    return [[...value.options].map((x) => x.value), found, document.querySelector(".chart .name").textContent];
    """
    values, names, linear = drawn(runs(), tmp_path, 1280, script)
    assert values == ["test accuracy", "test loss", "f1"] and linear == "seconds"
    bytes_ = ["bytes, both directions", "bytes up", "bytes down"]
    assert names == [f"{name} (log scale)" for name in (*bytes_, "rounds", "seconds")]


def test_the_buttons_save_every_round_and_the_whole_table(tmp_path):
    script = """
    for (const button of document.querySelectorAll("button")) if (button.textContent === "CSV") button.click();
    return Promise.all(saved.map((blob) => blob.text()));
    """
    rounds, whole = (list(csv.reader(io.StringIO(text))) for text in drawn(runs(), tmp_path, 1280, script))
    assert rounds[0][:7] == ["method", "seed", "round", "bytes up", "bytes down", "seconds", "test accuracy"]
    assert len(rounds) == 1 + 5 * 3 and rounds[4][:5] == [LONG, "0", "1", "7", "14"]
    assert [row[0] for row in whole] == ["method", "dense", LONG, "topk"] and len({len(row) for row in whole}) == 1


def test_tables_sort_by_numbers_and_by_names(tmp_path):
    script = """
    const table = document.querySelector("table.sortable"), head = [...table.tHead.rows[0].cells];
    const names = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent.slice(0, 4));
    const found = [];
    for (const name of ["MB total", "MB total", "method"]) {
      head.find((cell) => cell.textContent === name).click();
      found.push(names());
    }
    return found;
    """
    assert drawn(runs(), tmp_path, 1280, script) == [
        ["lbgm", "topk", "dens"],
        ["dens", "topk", "lbgm"],
        ["dens", "lbgm", "topk"],
    ]


@pytest.mark.parametrize("width", [390, 1280])
def test_figures_of_an_axis_stand_apart(width, tmp_path):
    script = """
    const texts = [...document.querySelectorAll(".chart svg text[text-anchor=middle]")].map((x) => x.getBBox());
    return texts.map((box) => [box.x, box.x + box.width]);
    """
    records = [record("dense", 0, [round_report(n, 0.1 * n) for n in range(1, 5)])]  # 3 to 12 kB
    places = drawn(records, tmp_path, width, script)
    assert len(places) > 2 and all(one[1] < other[0] for one, other in itertools.pairwise(places))


POINTS = """
const shapes = [...document.querySelectorAll(".chart polyline, .chart polygon")];
const texts = [...document.querySelectorAll(".chart svg text")].map((x) => x.textContent);
return [shapes.map((x) => x.getAttribute("points")), texts];
"""


def test_the_largest_numbers_are_points(tmp_path):
    values = (-1.7e308, 1.7e308, 1.0)
    reports = [round_report(n, None, x, metric=None) for n, x in enumerate(values, 1)]
    records = [record("dense", seed, reports) for seed in (0, 1)]
    points, texts = drawn(records, tmp_path, 1280, POINTS)
    heights = [float(point.split(",")[1]) for point in points[1].split()]
    assert "NaN" not in str(points) and heights[1] < heights[2] < heights[0]
    assert not any("NaN" in text or "∞" in text for text in texts) and len(texts) > 5


def test_seeds_without_a_common_round_have_a_line_each(tmp_path):
    records = [record("dense", seed, [round_report(n, 0.5) for n in (1 + seed, 3 + seed)]) for seed in (0, 1)]
    points, texts = drawn(records, tmp_path, 390, POINTS)
    assert len(points) == 2 and "nothing to show" not in texts


def test_an_empty_page_has_no_error(tmp_path):
    assert ask(document("Title", "", "", []), 390, "return document.title;", tmp_path) == "Title"
