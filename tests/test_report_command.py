"""`fewbits report` over folders of runs of any origin."""

import csv
import json
import shlex

import pytest
import torch
from typer.testing import CliRunner

import fewbits as fb
from fewbits.cli.app import app


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(command, code=0):
    result = CliRunner().invoke(app, shlex.split(command), env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == code, result.output
    return result.output


def federated(out, method, seed=0):
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(40, 8, generator=draw)
    data = [(x[i::4], x[i::4, :3].argmax(1)) for i in range(4)]
    torch.manual_seed(0)
    return fb.federate(torch.nn.Linear(8, 3), data, method, rounds=2, test=data[0], seed=seed, out=out)


def test_runs_of_calls_and_of_commands_stand_in_one_table(folder):
    result = federated("call", "topk@fraction=0.1")
    call("train --method dense --clients 3 --rounds 1 --steps 1 --out dense")
    call("compare --methods dense,lbgm --seeds 0,1 --clients 3 --rounds 1 --steps 1 --out several")
    call("report call dense several --out page --csv runs.csv")
    lines = list(csv.DictReader((folder / "runs.csv").read_text().splitlines()))
    assert [line["folder"] for line in lines] == [
        "call",
        "dense",
        "several/dense-seed0",
        "several/dense-seed1",
        "several/lbgm-seed0",
        "several/lbgm-seed1",
    ]
    assert int(lines[0]["up_frame_bytes"]) == result.reports[-1].up_frame_bytes
    assert lines[0]["method"] == "topk" and lines[4]["method"] == "lbgm" and lines[0]["times_fewer"] == ""
    assert float(lines[4]["times_fewer"]) == pytest.approx(float(lines[5]["times_fewer"]), rel=0.1)
    assert len(json.loads((folder / "page/summary.json").read_text())) == 6
    assert "6 runs" in (folder / "page/report.html").read_text()
    call("report call --out page")


def test_runs_that_differ_in_their_seeds_alone_are_one_row_and_others_are_not(folder):
    for name, more in {"a": "--seed 0", "b": "--seed 1", "c": "--seed 0 --lr 0.3"}.items():
        call(f"train --method dense --clients 3 --rounds 1 --steps 1 {more} --out {name}")
    text = call("report a b c")
    assert text.count("±") == 1 and "(a)" in text and "(c)" in text and "(b)" not in text


def test_a_folder_without_a_run_and_one_in_the_way_are_named(folder):
    (folder / "empty").mkdir()
    assert "empty holds no run" in call("report empty", code=2)
    federated("call", "dense")
    assert "call holds" in call("report call --out call", code=2)
    call("gossip --nodes 4 --rounds 1 --out graph")
    assert "is a run without a server" in call("report graph", code=2)
