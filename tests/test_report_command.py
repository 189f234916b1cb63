"""`fewbits report` over folders of runs of any origin."""

import csv
import html
import json
import re
import shutil

import pytest
import torch

import fewbits as fb
from commands import call


def federated(out, method, seed=0):
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(40, 8, generator=draw)
    data = [(x[i::4], x[i::4, :3].argmax(1)) for i in range(4)]
    torch.manual_seed(0)
    return fb.federate(torch.nn.Linear(8, 3), data, method, rounds=2, test=data[0], seed=seed, out=out)


def titles(text):
    """The lines above the printed tables."""
    return [line for line in text.splitlines() if "clients" in line and not line.startswith(" ")]


def test_runs_of_unlike_tasks_stand_in_a_table_each(folder):
    result = federated("call", "topk@fraction=0.1")
    federated("other", "dense")
    call("train --method dense --clients 3 --rounds 1 --steps 1 --out dense")
    call("compare --methods dense,lbgm --seeds 0,1 --clients 3 --rounds 1 --steps 1 --out several")
    call("train --method lbgm --clients 4 --rounds 1 --steps 1 --out more")
    text = call("report call other dense several more --out page --csv runs.csv")
    assert text.startswith("3 tasks, each with its own table: figures of unlike tasks cannot be held against")
    assert titles(text) == [
        "Linear of 27 parameters, 4 clients with 40 examples",
        "digits, mlp, 3 clients, split iid",
        "digits, mlp, 4 clients, split iid",
    ]
    lines = list(csv.DictReader((folder / "runs.csv").read_text().splitlines()))
    several = [f"several/{name}-seed{seed}" for name in ("dense", "lbgm") for seed in (0, 1)]
    assert [line["folder"] for line in lines] == ["call", "other", "dense", *several, "more"]
    assert int(lines[0]["up_frame_bytes"]) == result.reports[-1].up_frame_bytes
    assert lines[0]["method"] == "topk@fraction=0.1"
    assert float(lines[0]["times_fewer"]) > 1 == float(lines[1]["times_fewer"])
    assert float(lines[5]["times_fewer"]) == pytest.approx(float(lines[6]["times_fewer"]), rel=0.1)
    assert lines[7]["task"] == "digits, mlp, 4 clients, split iid" and lines[7]["times_fewer"] == ""
    assert len(json.loads((folder / "page/summary.json").read_text())) == 8
    page = (folder / "page/report.html").read_text()
    assert "8 runs" in page and page.count('<figure class="chart">') == 3 and "3 tasks, each with its own table" in page
    call("report call --out page")
    assert (folder / "page/report.html").read_text().count('<figure class="chart">') == 1


def test_seeds_of_calls_are_one_row_and_other_data_are_another_task(folder):
    federated("a", "dense")
    federated("b", "dense", seed=1)
    assert call("report a b").count("±") == 1
    x = torch.randn(8, 8, generator=torch.Generator().manual_seed(2))
    fb.federate(torch.nn.Linear(8, 3), [(x[i::4], x[i::4, :3].argmax(1)) for i in range(4)], "dense", 1, out="c")
    assert call("report a c").startswith("2 tasks")
    (folder / "a/checkpoints").rename(folder / "gone")
    text = call("report a b")
    assert "\na\n" in text and titles(text) == ["Linear of 27 parameters, 4 clients with 40 examples"]


def test_methods_that_factor_the_model_and_comparisons_share_the_task_of_plain_runs(folder):
    x = torch.randn(80, 8, generator=torch.Generator().manual_seed(2))
    data = [(x[i::4], x[i::4, :3].argmax(1)) for i in range(4)]
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Linear(64, 64), torch.nn.Linear(64, 3))
    fb.compare(model, data, ["dense", "local"], rounds=1, test=data[0], out="both", holdout=0.2)
    fb.federate(model, data, "fedpara", 1, test=data[0], out="one-seed4", seed=4, holdout=0.2)
    text = call("report both one-seed4")
    assert "tasks" not in text
    assert {"dense", "local", "fedpara"} <= set(text.split()) and "one" not in text
    fb.federate(torch.nn.Sequential(torch.nn.Linear(8, 3)), data, "dense", 1, test=data[0], out="other", holdout=0.2)
    assert titles(call("report both other")) == [
        "Sequential of 4,931 parameters, 4 clients with 64 examples",
        "Sequential of 27 parameters, 4 clients with 64 examples",
    ]


def test_rows_say_the_settings_that_differ_and_seeds_alone_are_one_row(folder):
    for name, more in {"a": "--seed 0", "b": "--seed 1", "c": "--seed 0 --lr 0.3", "d": "--lr 0.3 --rounds 2"}.items():
        call(f"train --method dense --clients 3 --rounds 1 --steps 1 {more} --out {name}")
    text = call("report a b c d")
    assert text.count("±") == 1 and "tasks" not in text
    for name in ("(rounds=1, lr=0.1)", "(rounds=1, lr=0.3)", "(rounds=2, lr=0.3)"):
        assert name in text
    assert "(" not in call("report a b")


def test_a_run_that_is_there_twice_is_named_by_its_folder_and_several_by_what_theirs_share(folder):
    for seed in (0, 1):
        call(f"train --method dense --clients 3 --rounds 1 --steps 1 --seed {seed} --out runs/first{seed}")
    call("train --method dense --clients 3 --rounds 1 --steps 1 --out again")
    text = call("report runs again")
    assert "(runs/first*)" in text and "(again)" in text
    shutil.move("runs/first0", "x")
    shutil.move("runs/first1", "y")
    assert "(x, y)" in call("report x y again")


def test_a_table_has_the_method_as_it_was_typed(folder):
    text = call("train --method intrinsic --set dim=20 --clients 2 --rounds 1 --steps 1 --out a")
    assert "intrinsic@dim=20: round 1" in text and "\n @dim=20" in text
    assert json.loads((folder / "a/summary.json").read_text())["method"] == "intrinsic@dim=20"
    call("compare --methods dense,topk,b=topk --set topk.fraction=0.1 --clients 2 --rounds 1 --steps 1 --out c")
    assert {path.name for path in (folder / "c").iterdir() if path.is_dir()} == {"dense-seed0", "topk-seed0", "b-seed0"}
    assert "intrinsic@dim=20" in "".join(call("report a c").split())


def test_a_folder_without_a_run_and_one_in_the_way_are_named(folder):
    (folder / "empty").mkdir()
    assert "empty holds no run" in call("report empty", code=2)
    assert "there is no folder nowhere" in call("report nowhere", code=2)
    federated("call", "dense")
    assert "call holds" in call("report call --out call", code=2)
    call("gossip --nodes 4 --rounds 1 --out graph")
    assert "is a run without a server" in call("report graph", code=2)


def test_the_time_on_a_line_is_that_of_the_slowest_client_of_each_round(folder):
    federated("run", "topk@fraction=0.1")
    entries = [json.loads(line) for line in (folder / "run/ledger.jsonl").read_text().splitlines()]
    expected = 0.0
    for round in (1, 2):
        seconds = [0.0] * 4
        for entry in (entry for entry in entries if entry["round"] == round):
            seconds[entry["client"]] += 8 * entry["frame_bytes"] / (1e6 if entry["direction"] == "up" else 4e6)
        expected += max(seconds)
    text = call("report run --uplink-mbps 1 --downlink-mbps 4 --out page --csv runs.csv")
    assert "line time: of lines of 1 Mbit/s up and 4 down, the slowest client of each round" in text
    (line,) = csv.DictReader((folder / "runs.csv").read_text().splitlines())
    assert float(line["line_seconds"]) == pytest.approx(expected)
    assert "of lines of 1 Mbit/s up and 4 down" in (folder / "page/report.html").read_text()
    assert "up and 50 down" in call("report run --uplink-mbps 1") and "line time" not in call("report run")
    assert "both rates must be > 0" in call("report run --uplink-mbps 0", code=2)


def test_models_of_as_many_parameters_are_unlike_tasks(folder):
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    clients = [(x, x.argmax(1)) for _ in range(2)]
    for seed, kind in enumerate((torch.nn.ReLU, torch.nn.ReLU, torch.nn.Tanh)):
        model = torch.nn.Sequential(torch.nn.Linear(5, 4), kind(), torch.nn.Linear(4, 5))
        fb.federate(model, clients, "dense", 1, test=clients[0], seed=seed, out=f"calls/{seed}")
    assert "2 tasks, each with its own table" in call("report calls")


@pytest.mark.parametrize("kept", [0, 3])
def test_a_shortened_ledger_gives_no_line_time(folder, kept):
    federated("run", "dense")
    ledger = folder / "run" / "ledger.jsonl"
    ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[:kept]))
    assert "is damaged: its entries of" in call("report run --uplink-mbps 1", code=2)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "is not JSON"),
        ("[1]", "must hold a JSON object; got [1]"),
        ('{"method": 3, "seed": 0}', "method must be text; got 3"),
        ('{"method": "topk", "seed": "a"}', "seed must be a whole number; got 'a'"),
    ],
)
def test_a_damaged_summary_is_named_in_the_terminal_and_on_the_page(folder, text, why):
    federated("run", "topk")
    (folder / "run/summary.json").write_text(text)
    shown = call("report run --out page")
    assert "note: run/summary.json" in shown and why in shown and "The folder's name stands for" in shown
    (note,) = json.loads(html_code((folder / "page/report.html").read_text()))["notes"]
    assert why in note and note in shown


def html_code(page):
    return html.unescape(re.findall(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL)[-1])


def test_a_damaged_summary_of_a_comparison_and_a_run_without_one_are_said(folder):
    x = torch.eye(3)
    fb.compare(torch.nn.Linear(3, 3), [(x, torch.arange(3))] * 2, ["dense", "topk"], rounds=1, out="both")
    assert "note" not in call("report both")
    whole = folder / "both/summary.json"
    whole.write_text(json.dumps(json.loads(whole.read_text())[:1]))
    assert "both/summary.json has no figures of topk, seed 0" in call("report both")
    whole.write_text("{}")
    assert "must hold a JSON list" in call("report both")
    whole.unlink()
    assert "both/topk-seed0: its run has not ended" in call("report both")


def test_a_run_that_goes_on_and_figures_of_a_later_version_are_said(folder):
    call("train --method dense --clients 2 --rounds 2 --steps 1 --out a")
    metrics = folder / "a/metrics.jsonl"
    first, second = metrics.read_text().splitlines()
    (folder / "a/summary.json").unlink()
    metrics.write_text(f"{first}\n{second[:40]}")  # as another process may find it
    assert "a: its run has not ended; the table has the rounds so far" in call("report a")
    metrics.write_text(first.replace('"round":', '"later": 1, "round":') + "\n")
    assert "a/metrics.jsonl, line 1: unknown figure 'later'; it is of a later version" in call("report a", code=2)


@pytest.mark.parametrize(
    ("name", "value"), [("accuracy", "high"), ("up_frame_bytes", None), ("notes", [1]), ("diverged", 0)]
)
def test_a_figure_of_another_kind_is_named(folder, name, value):
    federated("run", "dense")
    metrics = folder / "run/metrics.jsonl"
    first, second = map(json.loads, metrics.read_text().splitlines())
    metrics.write_text(f"{json.dumps(first)}\n{json.dumps(second | {name: value})}\n")
    assert f"run/metrics.jsonl, line 2: {name} is no figure of this kind" in call("report run", code=2)


def test_a_line_that_is_being_written_is_none(folder):
    result = federated("run", "dense")
    for name in ("metrics.jsonl", "ledger.jsonl"):
        with (folder / "run" / name).open("a") as file:
            file.write('{"round": 3, "dir')
    (figures,) = csv.DictReader((call("report run --csv runs.csv"), (folder / "runs.csv").read_text())[1].splitlines())
    assert int(figures["up_frame_bytes"]) == result.ledger.frame_bytes["up"]
