"""The report: figures are those of the logs, the page needs nothing from outside, the picture is one."""

import io
import json
import re
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image
from rich.console import Console

import fewbits as fb
from fewbits.engines.simulation import RoundReport
from fewbits.errors import LocalError
from fewbits.report import Record, figure, rows
from fewbits.report.drawing import DARK, LIGHT
from fewbits.report.gossip import GossipRecord, legend
from fewbits.report.gossip import rows as gossip_rows
from fewbits.report.gossip import terminal as gossip_terminal
from fewbits.report.record import against_dense, total
from fewbits.report.table import cells, columns, terminal
from fewbits.report.text import megabytes
from fewbits.report.training import report as report_of
from fewbits.report.training import sections
from fewbits.report.write import write
from web_page import Outside


def report(round, accuracy=None, up=100, down=200, recycled=None, clients=2, skipped=0, rejected=0, loss=None, **more):
    return RoundReport(
        round=round,
        accuracy=accuracy,
        loss=loss,
        train_loss=1.0,
        up_frame_bytes=up * round,
        down_frame_bytes=down * round,
        up_payload_bytes=(up - 16) * round,
        down_payload_bytes=(down - 16) * round,
        clients=clients,
        skipped=skipped,
        rejected=rejected,
        recycled=recycled,
        floor=None,
        seconds=0.5 * round,
        **more,
    )


def record(method="dense", seed=0, up=100, accuracies=(0.3, 0.8, 0.7), **more):
    reports = [report(n, a, up, recycled=more.get("recycled")) for n, a in enumerate(accuracies, 1)]
    return Record(method, seed, tuple(reports), {"header": 128, "Fixed": 700}, {"later rounds": 900})


def text_of(records, found):
    """The parts of a page."""
    return "".join(part for section in sections(records, found, {}) for part in section.parts)


def test_a_record_reads_what_the_run_wrote(tmp_path):
    reports = [report(1, 0.5), report(2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(vars(r)) + "\n" for r in reports))
    entries = [
        {
            "round": 1,
            "client": 0,
            "direction": "up",
            "frame_bytes": 20,
            "payload_bytes": 4,
            "stages": {"TopK": 20, "Rans": 5, "Raw": 0},
        },
        {"round": 1, "client": 0, "direction": "down", "frame_bytes": 50, "payload_bytes": 30, "stages": {}},
        {"round": 2, "client": 1, "direction": "up", "frame_bytes": 18, "payload_bytes": 2, "stages": {"TopK": 16}},
    ]
    (tmp_path / "ledger.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries))
    found = Record.read(tmp_path, "topk", 3)
    assert found.reports == tuple(reports)
    assert found.stages == {"header": 2 * 128, "TopK": 36, "Rans": 5, "fill": 7}
    assert found.down == {"first contact": 240, "header": 160}


def test_a_folder_without_a_round_is_refused(tmp_path):
    with pytest.raises(LocalError, match=r"no metrics\.jsonl"):
        Record.read(tmp_path, "dense", 0)


def test_a_summary_is_the_last_round_and_the_whole_run():
    found = record(recycled=0.5).summary(target=0.75)
    assert (found["rounds"], found["accuracy"], found["best_accuracy"]) == (3, 0.7, 0.8)
    assert (found["up_frame_bytes"], found["down_frame_bytes"]) == (300, 600)
    assert found["bytes_to_target"] == 600 and found["recycled"] == 0.5
    assert record().bytes_to(0.9) is None


def test_the_recycled_share_weighs_rounds_by_their_clients():
    reports = (report(1, recycled=1.0, clients=1), report(2, recycled=0.0, clients=3))
    assert Record("lbgm", 0, reports, {}, {}).recycled == 0.25


def test_times_fewer_compares_runs_of_one_seed_and_length():
    short = replace(record("topk", 1, up=10), reports=record("topk", 1, up=10).reports[:2])
    found = against_dense([record(), record("topk", up=10), record("topk", 1, up=10), record("dense", 1), short])
    assert [r.times_fewer for r in found] == [1.0, 300 / 210, 300 / 210, 1.0, None]


SCORES = {"personal_accuracy": 0.5, "personal_spread": 0.2, "personal_worst": 0.1}


def personal(method="pfedpara", seed=0, own=(0.9, 0.12, 0.7), up=1_000_000, **more):
    """A run whose clients were judged in rounds 1 and 2 of 3."""
    mean, spread, worst = own
    figures = {"personal_accuracy": mean, "personal_spread": spread, "personal_worst": worst}
    reports = [
        report(1, 0.1, up, personal_accuracy=0.2, personal_spread=0.0, personal_worst=0.1),
        report(2, mean, up, **figures),
    ]
    return Record(method, seed, (*reports, report(3, None, up, recycled=more.get("recycled"))), {}, {})


def test_a_summary_has_what_clients_reached_on_their_own_data():
    found = personal().summary()
    assert (found["personal_accuracy"], found["personal_spread"], found["personal_worst"]) == (0.9, 0.12, 0.7)
    assert found["accuracy"] == 0.9
    assert "personal_accuracy" not in record().summary() and record().personal is None


def test_how_clients_differ_is_a_table_where_they_were_evaluated():
    spread = {"personal_least": 0.1, "personal_tenth": 0.25, "personal_median": 0.5, "personal_ninetieth": 0.9}
    runs = [Record("a", s, (report(1, 0.5, **spread, **SCORES),), {}, {}) for s in (0, 1)]
    runs += [Record("b", 0, (report(1, **{k: 10 * x for k, x in spread.items()}),), {}, {}), record("c")]
    text = text_of(runs, rows(runs))
    assert "".join(re.findall(r"<td[^>]*>([^<]*)</td>", text)).count("a10.0%25.0%50.0%90.0%b12.559") == 1
    assert "personal_median" in runs[0].summary() and "personal_median" not in record().summary()
    assert "median" not in text_of([record()], rows([record()]))


def subspace(seed=0, isotropy=(0.9, None, 1.1)):
    figures = [report(n, 0.5, isotropy=x, effective_step=x and 0.004) for n, x in enumerate(isotropy, 1)]
    return Record("intrinsic", seed, tuple(figures), {}, {})


def test_what_subspaces_hold_is_in_summary_table_and_page():
    found = subspace().summary()
    assert found["isotropy"] == pytest.approx(1.0) and found["effective_step"] == pytest.approx(0.004)
    assert "isotropy" not in record().summary()
    mixed = rows([record(), subspace(), subspace(1, (2.0, 2.0))])
    assert cells(mixed[0], ["isotropy", "step"]) == ["–", "–"]
    assert cells(mixed[1], ["isotropy", "step"]) == ["1.5", "0.004"]
    assert "isotropy" in columns(mixed) and "isotropy" not in columns(mixed[:1])
    assert "Isotropy:" in text_of([], mixed) and "Isotropy:" not in text_of([], [])


def test_rows_average_clients_own_figures_over_seeds():
    (row,) = rows([personal(own=(0.9, 0.1, 0.6)), personal(seed=1, own=(0.8, 0.2, 0.4))])
    assert row.personal == pytest.approx((0.85, 0.15, 0.5))
    mixed = rows([record(), personal()])
    assert columns(mixed)[:4] == ["method", "accuracy", "personal data", "worst 10%"]
    assert cells(mixed[0], ["personal data", "worst 10%"]) == ["–", "–"]
    assert cells(mixed[1], ["personal data", "worst 10%"]) == ["90.0% ± 12.0", "70%"]
    assert "personal data" in text_of([personal()], mixed)


def test_a_log_from_before_clients_were_judged_can_be_read(tmp_path):
    old = {k: v for k, v in vars(report(1, 0.5)).items() if not k.startswith("own_")}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(old) + "\n")
    (tmp_path / "ledger.jsonl").write_text("")
    assert Record.read(tmp_path, "dense", 0).personal is None


def test_rows_average_over_seeds():
    (row,) = rows([record(accuracies=(0.5,)), record(seed=1, accuracies=(0.7,), up=300)], target=0.6)
    assert row.accuracy == pytest.approx(0.6) and row.spread == pytest.approx(0.1414, abs=1e-4)
    assert (row.up, row.down, row.seeds) == (200, 200, 2)
    assert (row.reached, row.to_target) == (1, 500)


def test_columns_that_nothing_fills_are_left_out():
    assert columns(rows([record()])) == ["method", "accuracy", "MB up", "MB down", "MB total", "time"]
    full = rows(against_dense([record(recycled=0.5)]), target=0.99)
    assert {"× fewer", "recycled", "MB to target"} <= set(columns(full))
    assert "never" in cells(full[0], columns(full))


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (1234, "0.0012"), (123_456, "0.123"), (1_234_567, "1.23"), (123_456_789, "123"), (5e9, "5,000")],
)
def test_megabytes_have_three_figures(count, text):
    assert megabytes(count) == text


@pytest.mark.parametrize("theme", [LIGHT, DARK])
@pytest.mark.parametrize("seeds", [1, 3])
def test_the_picture_is_a_png(theme, seeds):
    records = [record(method, seed, up) for method, up in (("dense", 10_000), ("topk", 30)) for seed in range(seeds)]
    with Image.open(io.BytesIO(figure.png(records, theme))) as picture:
        picture.verify()
        assert picture.format == "PNG" and picture.width == 1200


def test_runs_that_were_never_evaluated_have_no_picture(tmp_path):
    never = record(accuracies=(None, None))
    with pytest.raises(LocalError, match="evaluated"):
        figure.png([never])
    (note,) = write(tmp_path, report_of("t", [never], {}, {}))
    assert "evaluated" in note and (tmp_path / "report.html").exists()


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(LocalError, match=r"fewbits\[report\]"):
        figure.png([record()])


def test_the_page_is_self_contained_and_escapes_text(tmp_path):
    records = [record(), record("topk", up=10), record("<script>", up=5)]
    assert write(tmp_path, report_of("a <b> title", records, {"data": "<i>"}, {"x": 1}, 0.5)) == []
    text = (tmp_path / "report.html").read_text()
    parser = Outside()
    parser.feed(text)
    assert parser.fetched == [] and not re.search(r"https?:|@import|url\(", text)
    assert not {"i", "b", "link"} & set(parser.tags)
    assert parser.tags.count("script") == 2  # the figures, and what draws them
    assert parser.tags.count("img") == 1 and parser.tags.count("source") == 0
    assert len(text) < 1_000_000
    assert json.loads((tmp_path / "summary.json").read_text()) == {"x": 1}
    with Image.open(tmp_path / "accuracy.png") as picture:
        picture.verify()


def test_the_page_shows_every_stage_and_its_share():
    text = text_of([record()], rows([record()]))
    assert "Fixed" in text and f"{700 / 828:.1%}" in text


def test_totals_add_both_directions():
    assert total(report(2)) == 600


def lines_of(records, target=None):
    out = io.StringIO()
    Console(file=out, width=80, color_system=None).print(terminal(rows(against_dense(records), target=target)))
    return out.getvalue()


@pytest.mark.parametrize(("up", "worst"), [(100, 0.7), (1_000_000, 1.0), (5_000_000_000, 1.0)])
@pytest.mark.parametrize("target", [None, 0.5, 0.85, 0.99])
def test_with_clients_own_data_and_long_names_every_table_fits_80_columns_uncut(up, worst, target):
    names = ("dense", "pfedpara", "fedpara+lbgm+topk", "lowrank+lbgm+sign")
    records = [
        personal(name, seed, (1.0 - 0.2 * seed, 0.123, worst), up if name == "dense" else up // 40 + 20, recycled=0.5)
        for name in names
        for seed in (0, 1)
    ]
    text = lines_of(records, target)
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    assert "90.00%±14.14" in text and "90.0%±12.3" in text and f"{worst:.0%}" in text and "+lbgm+topk" in text


def sweep_of_a_regression(accuracy):
    figures = {"metric": 0.8702, "metric_name": "r2"}
    reports = (report(1, accuracy, loss=0.045021, up=1_170, down=4_775, **figures),)
    names = [f"{method} (lr={rate})" for rate in (0.05, 0.1) for method in ("dense", "topk@fraction=0.2")]
    found = rows([Record(name, 0, reports, {"header": 128}, {"later rounds": 900}) for name in names])
    out = io.StringIO()
    table = terminal([replace(row, times_fewer=3.99) for row in found])
    Console(file=out, width=80, color_system=None).print(table)
    return out.getvalue()


def test_a_name_with_options_and_settings_is_broken_where_it_gets_narrower():
    lines = [line.split() for line in sweep_of_a_regression(0.5).splitlines()]
    assert ["topk@fraction=0.2"] in lines and "(lr=0.05)" in [line[0] for line in lines if line]


def test_an_accuracy_that_nobody_has_gives_way_before_the_bytes():
    without, having = sweep_of_a_regression(None), sweep_of_a_regression(0.5)
    assert "accuracy" not in without and all(word in without for word in ("r2", "loss", "up", "down", "total"))
    assert "accuracy" in having and "50.00%" in having


def test_columns_give_way_only_where_they_must():
    text = lines_of([personal()])
    assert all(heading in text for heading in ("total", "time", "personal", "worst"))
    text = lines_of([personal("fedpara+lbgm+topk", seed, recycled=0.5) for seed in (0, 1)], 0.5)
    table, left_out = text.rsplit("Left out, as 80 columns are too few: ", 1)
    assert "time" not in table and "total" not in table and "target" in table
    assert left_out.split() == ["MB", "total,", "time"]  # it is said


def test_the_widest_table_fits_80_columns_uncut():
    records = [
        record(method, seed, 1_000_000, accuracies=(0.1 * seed, 0.9 + 0.01 * seed), recycled=0.5)
        for method in ("dense", "lbgm+topk")
        for seed in (1, 2)
    ]
    out = io.StringIO()
    Console(file=out, width=80, color_system=None).print(terminal(rows(against_dense(records), target=0.5)))
    assert "…" not in out.getvalue() and "91.50%±0.71" in out.getvalue() and out.getvalue().count("1.0s") == 2


def test_turns_that_do_not_count_and_divergence_are_marked_and_explained_in_the_table_and_on_the_page():
    note = "round 2: client 1 was skipped: ValueError: <one> example"
    reports = (report(1, 0.3, loss=1.0), report(2, 0.1, clients=1, skipped=2, rejected=1, diverged=True, notes=[note]))
    bad = Record("topk", 0, reports, {"header": 128}, {})
    found = rows([record(), bad, replace(bad, seed=1)])
    lines = [
        "! diverged, with a loss or updates that are not finite: topk (2 of 2 seeds)",
        "* turns of clients that do not count: topk 6 of 12 (4 skipped, 2 rejected)",
    ]
    shown = printed(terminal(found))
    assert "10.00%±0.00!*" in shown and "70.00%!" not in shown and "70.00%*" not in shown
    page = text_of([record(), bad], found)
    assert all(line in " ".join(shown.split()) and line in page for line in lines)
    assert "<li>topk, seed 0: round 2: client 1 was skipped: ValueError: &lt;one&gt; example</li>" in page
    assert "10.00% ± 0.00 !*" in page and bad.summary()["diverged"] is True
    fine = rows([record()])
    assert "do not count" not in printed(terminal(fine)) and "survived" not in text_of([record()], fine)


def printed(table):
    out = io.StringIO()
    Console(file=out, width=80, color_system=None).print(table)
    return out.getvalue()


def test_a_run_that_recovered_has_not_diverged():
    def diverged(*reports):
        return Record("dense", 0, reports, {}, {}).diverged

    bad, good = report(1, 0.1, diverged=True), report(2, 0.5, loss=1.0)
    assert diverged(bad) == 1 and diverged(bad, good) is None
    assert diverged(report(1, 0.5, loss=1.0), replace(bad, round=2), report(3)) == 2, "round 3 was not evaluated"
    assert diverged(report(1, clients=0, diverged=True), report(2)) is None, (
        "no round was evaluated; clients count again"
    )


def test_without_a_server_steps_not_taken_and_divergence_are_marked_and_explained(tmp_path):
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    labels, unknown = torch.arange(8) % 2, torch.arange(8) % 3 + 1
    nodes = [(x, labels), (x, unknown), (torch.full_like(x, torch.nan), labels)]
    fb.gossip(torch.nn.Linear(3, 2), nodes, fb.topology.ring(3), "dsgd", 2, test=nodes[0], out=tmp_path)
    found = GossipRecord.read(tmp_path, "dsgd", 0)
    assert found.skipped == 4 and not found.diverged and found.summary()["skipped"] == 4
    (line,) = legend([found])
    assert line == "* nodes took no local step: dsgd 4 times"
    shown, page = printed(gossip_terminal(gossip_rows([found]), [line])), (tmp_path / "report.html").read_text()
    assert line in " ".join(shown.split()) and "%*" in shown.replace(" ", "")
    assert line in page and "node 1 took no step: IndexError" in page and "node 2 took no step" in page


def test_bytes_by_stage_are_the_mean_of_the_seeds_as_the_bytes_above_them_are():
    records = [
        replace(record(seed=seed), stages={"header": 8 * 500_000 * (1 + seed), "Fixed": 8 * 1_000_000 * (1 + seed)})
        for seed in (0, 1)
    ]
    (part,) = [s for s in sections(records, rows(records), {}) if s.heading.startswith("Bytes sent by clients")]
    assert part.heading.endswith("by stage, mean over 2 seeds")
    text = "".join(part.parts)
    assert re.findall(r"<td>(\w+)</td><td>([\d.]+)</td><td>([\d.%]+)</td>", text) == [
        ("Fixed", "1.50", "66.7%"),
        ("header", "0.750", "33.3%"),
    ]
