"""The page of runs that go on."""

import json
import re

import pytest
import torch
from typer.testing import CliRunner

import fewbits as fb
from fewbits.cli.app import app
from fewbits.trackers import live_page

X, Y = torch.eye(4), torch.arange(4) % 2


def figures(folder):
    """What the page's chart draws: (method, rounds) of each run; and whether the run goes on."""
    text = (folder / "live.html").read_text()
    found = re.search(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    runs = [(run["method"], run["round"]) for run in json.loads(found[1])["runs"]] if found else []
    return runs, f'content="{live_page.REST}"' not in text


def play(folder, **more):
    clients, seen = [(X, Y)] * 2, []
    watch = lambda report: seen.append(figures(folder))  # noqa: E731
    result = fb.federate(torch.nn.Linear(4, 2), clients, "dense", out=folder, test=(X, Y), watch=watch, **more)
    return result, seen


def test_the_page_follows_the_rounds_and_rests_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(live_page, "EVERY", 0)
    result, seen = play(tmp_path, rounds=2, log=["live"])
    assert seen == [([("dense-seed0", [1])], True), ([("dense-seed0", [1, 2])], True)]
    assert figures(tmp_path) == ([("dense-seed0", [1, 2])], False) and result.notes == []
    assert "round 2 of 2, ended" in (tmp_path / "live.html").read_text()


def test_rounds_that_follow_at_once_share_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(live_page, "EVERY", 1000)
    _, seen = play(tmp_path, rounds=3, log=["live"])
    assert seen == [([], True)] * 3 and figures(tmp_path) == ([("dense-seed0", [1, 2, 3])], False)


def test_a_continued_run_shows_its_earlier_rounds(tmp_path, monkeypatch):
    monkeypatch.setattr(live_page, "EVERY", 0)
    for rounds, log in ((1, []), (2, ["live"])):
        torch.manual_seed(0)
        fb.federate(torch.nn.Linear(4, 2), [(X, Y)] * 2, "dense", rounds, out=tmp_path, test=(X, Y), log=log)
    assert figures(tmp_path) == ([("dense-seed0", [1, 2])], False)


def test_marks_in_the_table_are_explained_in_paragraphs(tmp_path):
    clients = [(X, Y), (torch.full_like(X, torch.nan), Y)]
    fb.federate(torch.nn.Linear(4, 2), clients, "dense", 1, out=tmp_path, test=(X, Y), log=["live"])
    assert re.findall(r"<p>(.*)</p>", (tmp_path / "live.html").read_text()) == [
        "* turns of clients that do not count: dense-seed0 1 of 2 (1 skipped, 0 rejected)"
    ]


def test_a_comparison_has_one_page_for_all_its_runs(tmp_path):
    out = tmp_path / "runs"
    command = "compare --methods dense,topk --clients 2 --rounds 1 --processes 1 --live --out"
    done = CliRunner().invoke(app, [*command.split(), str(out)])
    assert done.exit_code == 0, done.output
    assert figures(out) == ([("dense-seed0", [1]), ("topk-seed0", [1])], False)


def test_without_a_folder_it_is_a_sentence():
    with pytest.raises(fb.LocalError, match="live writes files; give out="):
        fb.federate(torch.nn.Linear(4, 2), [(X, Y)], "dense", 1, log=["live"])
