"""Rehearsals of candidates: the search for a budget, the table of `recommend`, and what auto chooses."""

import json
import shlex

import pytest
import torch
from typer.testing import CliRunner

import fewbits as fb
from fewbits import LocalError
from fewbits.cli.app import app
from fewbits.cli.choice import command, with_candidate
from fewbits.cli.config import RunConfig
from fewbits.methods import build
from fewbits.training.candidates import beside, candidates, inside
from fewbits.training.rehearsal import Rehearsal, held_out
from fewbits.training.rehearsed import Candidate, Play, Rehearsed, best_methods, frontier

BASE = ["--clients", "4", "--per-round", "1", "--batch-size", "0", "--processes", "1"]


def rehearsed(name, accuracies, cost, lr=0.1):
    """A candidate whose rounds cost the same, after rehearsals of one round, two rounds and so on."""
    plays = [Play(n, 1 - accuracy, accuracy, cost, n * cost) for n, accuracy in enumerate(accuracies, 1)]
    return Rehearsed(Candidate(name, lr), tuple(plays))


COARSE = rehearsed("topk@fraction=0.01", (0.3, 0.5, 0.6), 100)
FINE = rehearsed("topk@fraction=0.1", (0.4, 0.7, 0.9), 1000)
DENSE = rehearsed("dense", (0.5, 0.6, 0.7), 10_000)


def call(*words, code=0):
    found = CliRunner().invoke(app, [str(word) for word in words])
    assert found.exit_code == code, found.output
    return found.output


def task(count=4):
    torch.manual_seed(0)
    clients = [(x := torch.randn(20, 20), x[:, :4].argmax(1)) for _ in range(count)]
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(20, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    return fb.simulation.Task.of(model, clients, clients[0], fb.LocalSGD(lr=0.1))


class Foretold(Rehearsal):
    """Rehearsals whose losses are known, by method and rate: they fall to a floor, by a power of rate and rounds."""

    def __init__(self, speeds, floors, costs, budget, rates=True):
        schedule = fb.simulation.Schedule(10**9, processes=1, budget=budget)
        super().__init__(task(), schedule, fb.Key(0), rates=rates)
        self._methods, self.speeds, self.floors, self.costs, self.played = list(speeds), speeds, floors, costs, []

    def loss(self, method, lr, rounds):
        return float("inf") if lr > 2 else self.floors[method] + 2 / (1 + self.speeds[method] * rounds * lr)

    def _played(self, one, rounds, key, anew=False):
        self.played.append((one, rounds))
        cost = self.costs[one.method]
        buys = min(rounds, self.budget // cost)
        loss = self.loss(one.method, one.lr, buys)
        if buys and loss < float("inf"):
            return Play(buys, loss, 1 / (1 + loss), cost, buys * cost, buys < rounds)
        return None


@pytest.mark.parametrize(("budget", "best"), [(1_000, "coarse"), (9_000, "fine"), (200_000, "finest")])
def test_the_search_finds_what_is_best_at_the_end_of_the_budget(budget, best):
    speeds, costs = {"finest": 5, "fine": 3, "coarse": 1}, {"finest": 3_000, "fine": 300, "coarse": 20}
    floors = {"finest": 0.02, "fine": 0.1, "coarse": 0.2}
    found = Foretold(speeds, floors, costs, budget=budget)
    found.open()
    chosen = found.search()[0]
    every = {name: found.loss(name, 0.9, budget // cost) for name, cost in costs.items() if budget >= cost}
    assert chosen.candidate.method == min(every, key=every.get) == best
    assert chosen.candidate.lr == pytest.approx(0.9)  # the larger the better, up to 2
    assert chosen.last.rounds >= 0.9 * min(16 * 8, budget // costs[best])  # it was played to its end
    long = {one for one, rounds in found.played if rounds > 8}
    assert len(long) < len({one for one, _ in found.played})  # not all were


class Wild(torch.nn.Module):
    """Its outputs are finite, and its gradient is not: the root's slope at 0 is infinite."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(20, 4)

    def forward(self, x):
        return self.linear(x) + torch.sqrt(0 * self.linear.weight.sum())


def test_a_rehearsal_whose_updates_are_not_finite_is_out():
    """The loss of the model that nobody trains any more is finite."""
    torch.manual_seed(0)
    clients = [(x := torch.randn(20, 20), x[:, :4].argmax(1)) for _ in range(4)]
    wild = fb.simulation.Task.of(Wild(), clients, clients[0], fb.LocalSGD(lr=0.1, batch_size=0))
    schedule = fb.simulation.Schedule(50, processes=1, budget=10**6)
    found = Rehearsal(wild, schedule, fb.Key(0), rates=False)
    with pytest.raises(
        LocalError, match=r"dense at learning rate 0\.1: no client's update could be used in 4 of 4 rounds"
    ):
        found.open()


def test_the_best_rate_of_a_method_is_that_of_its_best_end_not_of_its_longest_one():
    found = Foretold({"a": 1}, {"a": 0}, {"a": 10}, budget=30)
    found._plays = {  # what costs less a round is played longer
        Candidate("a", 0.1): (Play(4, 0.9, 0.3, 10, 30, ended=True),),
        Candidate("a", 0.3): (Play(3, 0.5, 0.6, 10, 30, ended=True),),
    }
    assert [one.candidate.lr for one in found.best_rates] == [0.3]


def test_a_rate_that_is_given_stays():
    found = Foretold({"a": 1}, {"a": 0}, {"a": 10}, budget=1000, rates=False)
    found.open()
    assert {one.lr for one, _ in found.played} == {0.1} and found.search()[0].candidate == Candidate("a", 0.1)


def test_the_test_set_plays_no_part():
    whole = task()
    part = held_out(whole, fb.Key(0))
    assert [len(rows) for rows in part.parts] == [16] * 4 and len(part.test_y) == 16
    rows = torch.tensor([row for rows in part.parts for row in rows])
    assert len(set(rows.tolist())) == 64
    seen = {tuple(x.tolist()) for x in whole.x[rows]}
    assert not seen & {tuple(x.tolist()) for x in part.test_x}


def test_a_client_with_few_examples_holds_none_out():
    torch.manual_seed(0)
    clients = [(torch.randn(n, 3), torch.zeros(n, dtype=torch.int64)) for n in (1, 4, 10)]
    few = fb.simulation.Task.of(torch.nn.Linear(3, 2), clients)
    assert [len(rows) for rows in held_out(few, fb.Key(0)).parts] == [1, 4, 8]
    with pytest.raises(LocalError, match="needs a client with 5 examples or more"):
        held_out(fb.simulation.Task.of(torch.nn.Linear(3, 2), clients[:2]), fb.Key(0))


def test_every_candidate_is_a_method():
    for numbers in (70, 9_610, 430_000):
        tried = candidates(numbers)
        assert len(set(tried)) == len(tried)
        for method in tried:
            build(method)
    assert [build(m).inside.dim for m in candidates(20_000) if m.startswith("intrinsic")] == [5_000, 1_250, 312, 78]


def test_hope_is_a_power_of_the_rounds_and_an_ended_run_has_no_more_of_them():
    assert FINE.rounds(5500) == 5 and FINE.rounds(5500, most=2) == 2 and FINE.rounds(999) == 0
    assert FINE.hope(3) == FINE.last.loss > FINE.hope(4) > FINE.hope(8) > 0
    ended = Rehearsed(FINE.candidate, (*FINE.plays, Play(4, 0.05, 0.95, 1000, 4000, ended=True)))
    assert ended.rounds(10**6) == 4


def test_the_frontier_leaves_out_what_is_dearer_and_no_better():
    assert frontier([DENSE, FINE, COARSE]) == [COARSE, FINE]


def test_a_command_has_all_that_differs_from_the_defaults():
    config = with_candidate(RunConfig(clients=7, split="dirichlet:0.3", seed=3), "topk@fraction=0.01", 0.2, 40)
    assert command(config, "--budget 2MB", "runs/a b") == (
        "fewbits train --method topk@fraction=0.01 --data digits --model mlp --clients 7 --split dirichlet:0.3 "
        "--lr 0.2 --falling 40 --seed 3 --budget 2MB --out 'runs/a b'"
    )


def test_auto_in_python_trains_by_its_choice_and_keeps_the_budget(capsys):
    whole = task()
    clients = [(whole.x[rows], whole.y[rows]) for rows in whole.parts]
    local = fb.LocalSGD(lr=0.3)
    result = fb.federate(whole.model, clients, "auto", budget="20kB", rounds=3, test=clients[0], local=local)
    assert result.notes[0].startswith("auto chose ") and " at learning rate 0.3 of " in result.notes[0]
    assert sum(result.ledger.frame_bytes.values()) <= 20_000 and len(result.reports) <= 3
    assert capsys.readouterr().err.count("auto rehearses on the task before it trains") == 1
    with pytest.raises(LocalError, match="auto' chooses by a budget"):
        fb.federate(whole.model, clients, "auto", rounds=3)
    with pytest.raises(LocalError, match="leave out falling=5"):
        fb.federate(whole.model, clients, "auto", budget="1MB", local=fb.LocalSGD(lr=0.1, falling=5))


def test_recommend_prints_a_frontier_whose_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    said = call("recommend", *BASE, "--rehearsal", 1, "--at", "10kB", "--lr", 0.3)
    assert not list(tmp_path.iterdir())  # nothing is left
    lines = said.splitlines()
    table = lines[lines.index("") :]
    assert max(len(line) for line in table if "fewbits train" not in line and ": 'fewbits" not in line) >= 60
    assert (
        max(len(line) for line in table if not line[:1].isdigit() and not line.startswith(("auto", "for", "left")))
        <= 80
    )
    assert "Measured on held-out examples" in said and "accuracy" in said
    assert "\nfor 10kB: fewbits train --method" in said and "\nauto chose " in said
    first = next(line for line in lines if line.startswith("1: fewbits train"))
    words = shlex.split(first.removeprefix("1: fewbits "))
    assert "of 10 kB spent" in call(*words, "--processes", 1)


def test_without_a_budget_there_are_no_rounds():
    said = call("recommend", *BASE, "--rehearsal", 1, "--lr", 0.1)
    assert "rounds for" not in said and "--budget" not in said and "1: fewbits train --method" in said


def test_auto_says_what_it_chose_and_writes_it_down(tmp_path):
    words = ["--method", "auto", "--budget", "8kB", "--rehearsal", 1, "--lr", 0.3]
    said = call("train", *BASE, *words, "--out", tmp_path / "a")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    (line,) = [line for line in said.splitlines() if line.startswith("auto chose")]
    assert config["chosen"] == line
    assert line.startswith(f"auto chose {config['method']}@") and "for 8 kB" in line
    assert config["lr"] == 0.3 and config["falling"] >= 1
    assert line in (tmp_path / "a" / "report.html").read_text()
    again = call("train", "--resume", tmp_path / "a", "--budget", "10kB")
    assert line in again and "of 10 kB spent" in again
    options = [word for name, value in config["settings"].items() for word in ("--set", f"{name}={value}")]
    words = ["--method", config["method"], *options, "--lr", 0.3, "--falling", config["falling"], "--budget", "10kB"]
    call("train", *BASE, *words, "--out", tmp_path / "b")
    one, two = (json.loads((tmp_path / name / "summary.json").read_text()) for name in "ab")
    assert one["rounds"] >= two["rounds"] - 1  # the first part trimmed its last round


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--method", "auto"], "give one, such as --budget 2MB"),
        (["--method", "auto@bits=2", "--budget", "2MB"], "chooses the options, too"),
        (["--method", "auto", "--set", "bits=2", "--budget", "2MB"], "chooses the options, too"),
        (["--method", "topk", "--rehearsal", 3], "--rehearsal goes with --method auto; got --method topk"),
        (["--method", "auto", "--budget", "2MB", "--rehearsal", 0], "rehearsal must be a whole number"),
        (["--method", "auto", "--budget", "9B", "--rehearsal", 1], "no candidate could be rehearsed: dense: one"),
        (["--method", "auto", "--budget", "2MB", "--falling", 3], "leave out --falling"),
    ],
)
def test_what_does_not_go_with_auto_is_refused_in_a_sentence(tmp_path, words, sentence):
    said = call("train", *BASE, *words, "--out", tmp_path / "x", code=2)
    assert sentence in " ".join(said.split())
    assert not (tmp_path / "x").exists()


def test_recommend_refuses_what_is_no_size():
    assert "did you mean '2MB'" in call("recommend", *BASE, "--at", "2mb", code=2)


def _one(method, accuracy, lr=0.1):
    return Rehearsed(Candidate(method, lr), (Play(8, 1.0, accuracy, 10, 80),))


def test_search_climbs_from_two_methods_whatever_their_options():
    found = best_methods([_one("topk", 0.5), _one("a@dim=4", 0.6), _one("a@dim=8", 0.7), _one("dense", 0.4)])
    assert [one.candidate.method for one in found] == ["a@dim=8", "topk"]


class Lucky(Foretold):
    """A rehearsal that is best, and fails from another initial model."""

    def _played(self, one, rounds, key, anew=False):
        return None if anew and one.lr > 0.5 else super()._played(one, rounds, key)


def test_a_rate_at_the_edge_is_found_out_by_a_repetition():
    found = Lucky({"a": 1}, {"a": 0}, {"a": 10}, budget=1000)
    found.open()
    chosen = found.search()[0]
    assert max(one.last.merit for one in found.done) > chosen.last.merit
    assert chosen.candidate.lr == pytest.approx(0.3)


def test_a_constant_rate_is_tried():
    found = Foretold({"a": 1}, {"a": 0}, {"a": 10}, budget=1000)
    found.open()
    found.search()
    assert {one.falls for one, rounds in found.played if rounds > 8} == {True, False}


def test_beside_a_subspace_are_others_that_differ_in_one_option():
    numbers = 20_000
    assert set(candidates(numbers)) >= set(inside(numbers, 2, 4))
    for bits, down in ((2, 4), (1, 1)):
        for method in inside(numbers, bits, down):
            one = Candidate(method, 0.1)
            others = beside(one, numbers, rates=False)
            assert one not in others and len(others) == len(set(others)) >= 9
            assert all(one in beside(other, numbers, rates=False) for other in others)
            for other in others:
                build(other.method)
