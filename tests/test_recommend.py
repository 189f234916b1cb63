"""Rehearsals of candidates: the table of `recommend`, and what `train --method auto` chooses."""

import json
import shlex

import pytest
from typer.testing import CliRunner

from fewbits import LocalError
from fewbits.cli.app import app
from fewbits.cli.config import RunConfig
from fewbits.cli.rehearsal import Rehearsed, candidates, choose, command, frontier, reason
from fewbits.methods import build
from fewbits.methods.text import read

BASE = ["--clients", "4", "--batch-size", "200", "--processes", "1"]
COARSE = Rehearsed(read("topk@fraction=0.01"), (0.3, 0.5, 0.6), 100, 300)
FINE = Rehearsed(read("topk@fraction=0.1"), (0.4, 0.7, 0.9), 1000, 3000)
DENSE = Rehearsed(read("dense"), (0.5, 0.8, 0.9), 10_000, 30_000)
ALL = [DENSE, FINE, COARSE]


def call(*words, code=0):
    found = CliRunner().invoke(app, [str(word) for word in words])
    assert found.exit_code == code, found.output
    return found.output


def test_every_candidate_is_a_method():
    for numbers in (20, 9_610, 430_000):
        tried = candidates(numbers)
        assert len({str(method) for method in tried}) == len(tried)
        for method in tried:
            build(str(method))
    assert [m.settings["dim"] for m in candidates(20_000) if m.name.startswith("intrinsic")][::3] == [
        "800",
        "200",
        "100",
    ]


@pytest.mark.parametrize(
    ("budget", "best"),
    [(100, COARSE), (1000, COARSE), (2000, FINE), (9_999, FINE), (30_000, FINE), (10**7, FINE)],
)
def test_fine_methods_win_large_budgets_and_coarse_ones_small_budgets(budget, best):
    assert choose(ALL, budget) is best  # dense is as good as FINE in the end, for more bytes


def test_rounds_that_are_not_rehearsed_count_as_the_last_one():
    assert [FINE.accuracy_for(n) for n in (999, 1000, 2999, 3000, 10**6)] == [None, 0.4, 0.7, 0.9, 0.9]
    assert FINE.rounds(5500) == 5 and FINE.rounds(5500, most=2) == 2
    assert choose(ALL, 10**7, most=1) is DENSE


def test_a_budget_that_buys_no_round_is_refused_with_both_values():
    with pytest.raises(
        LocalError, match="a budget of 50 B buys no round of any candidate; the cheapest one costs 100 B"
    ):
        choose(ALL, 50)


def test_the_frontier_leaves_out_what_is_dearer_and_no_better():
    assert frontier(ALL) == [COARSE, FINE]
    assert frontier(ALL, 500) == [COARSE]


def test_a_command_has_all_that_differs_from_the_defaults():
    config = RunConfig(clients=7, split="dirichlet:0.3", lr=0.2, seed=3)
    text = command(config, read("topk@fraction=0.01"), "--budget 2MB", "runs/a b")
    assert text == (
        "fewbits train --method topk@fraction=0.01 --data digits --model mlp --clients 7 --split dirichlet:0.3 "
        "--lr 0.2 --seed 3 --budget 2MB --out 'runs/a b'"
    )


def test_the_reason_is_one_line_with_the_figures():
    line = reason(FINE, ALL, RunConfig(rounds=None, budget="20kB"))
    assert line == (
        "auto chose topk@fraction=0.1 of 3 candidates for 20kB: 90.00% after 3 rounds is the best, measured in a "
        "rehearsal of 3; 0.001 MB a round, so about 20 rounds"
    )


def test_recommend_prints_a_frontier_whose_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    said = call("recommend", *BASE, "--rehearsal", 2, "--at", "30kB")
    assert not list(tmp_path.iterdir())  # nothing is left
    lines = said.splitlines()
    table = lines[lines.index("") :]
    assert max(len(line) for line in table if "fewbits train" not in line and ": 'fewbits" not in line) >= 60
    assert max(len(line) for line in table if not line[:1].isdigit() and "--" not in line) <= 80
    assert "Measured in a rehearsal of 2 rounds" in said and "accuracy" in said and "for 30kB" in said
    first = next(line for line in lines if line.startswith("1: fewbits train"))
    words = shlex.split(first.removeprefix("1: fewbits "))
    assert "of 30 kB spent" in call(*words, "--processes", 1)


def test_without_a_budget_there_are_no_rounds():
    said = call("recommend", *BASE, "--rehearsal", 1, "--per-round", 2)
    assert "rounds for" not in said and "--budget" not in said and "1: fewbits train --method" in said


def test_auto_says_what_it_chose_and_writes_it_down(tmp_path):
    said = call("train", *BASE, "--method", "auto", "--budget", "20kB", "--rehearsal", 2, "--out", tmp_path / "a")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    (line,) = [line for line in said.splitlines() if line.startswith("auto chose")]
    assert config["chosen"] == line
    assert line.startswith(f"auto chose {config['method']}@") and "for 20kB" in line
    assert line in (tmp_path / "a" / "report.html").read_text()
    again = call("train", "--resume", tmp_path / "a", "--budget", "25kB")
    assert line in again and "of 25 kB spent" in again
    options = [word for name, value in config["settings"].items() for word in ("--set", f"{name}={value}")]
    call("train", *BASE, "--method", config["method"], *options, "--budget", "25kB", "--out", tmp_path / "b")
    one, two = (json.loads((tmp_path / name / "summary.json").read_text()) for name in "ab")
    assert one["rounds"] >= two["rounds"] - 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--method", "auto"], "give one, such as --budget 2MB"),
        (["--method", "auto@bits=2", "--budget", "2MB"], "chooses the options, too"),
        (["--method", "auto", "--set", "bits=2", "--budget", "2MB"], "chooses the options, too"),
        (["--method", "topk", "--rehearsal", 3], "--rehearsal goes with --method auto; got --method topk"),
        (["--method", "auto", "--budget", "2MB", "--rehearsal", 0], "rehearsal must be a whole number"),
        (["--method", "auto", "--budget", "9B", "--rehearsal", 1], "buys no round of any candidate"),
    ],
)
def test_what_does_not_go_with_auto_is_refused_in_a_sentence(tmp_path, words, sentence):
    said = call("train", *BASE, *words, "--out", tmp_path / "x", code=2)
    assert sentence in " ".join(said.split())
    assert not (tmp_path / "x").exists()


def test_recommend_refuses_what_is_no_size():
    assert "did you mean '2MB'" in call("recommend", *BASE, "--at", "2mb", code=2)
