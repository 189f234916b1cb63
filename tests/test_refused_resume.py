"""A --resume that is refused changes nothing in the folder, so the run goes on as it was."""

import pytest
import torch
from typer.testing import CliRunner

import fewbits as fb
from fewbits import LocalError
from fewbits.cli.app import app
from fewbits.engines.common.run_lock import LOCK
from fewbits.engines.common.same_run import check_goes_on

TASK = ["--data", "digits", "--clients", "4", "--batch-size", "400", "--processes", "1"]


def call(*words, code=0):
    found = CliRunner().invoke(app, [str(word) for word in words])
    assert found.exit_code == code, found.output
    return " ".join(found.output.split())


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != LOCK}


@pytest.mark.parametrize(
    ("command", "refused", "why"),
    [
        (["train", "--method", "topk", "--rounds", 2], ["--budget", "1kB"], "budget can be raised, not lowered"),
        (["train", "--method", "topk", "--rounds", 2], ["--rounds", 1], "rounds can extend a run, not shorten it"),
        (
            ["train", "--method", "topk", "--budget", "30kB"],
            ["--budget", "50kB", "--rounds", 1],
            "rounds can extend a run, not shorten it",
        ),
        (
            ["compare", "--methods", "topk,signsgd", "--rounds", 2],
            ["--budget", "6kB"],
            "budget can be raised, not lowered",
        ),
        (
            ["compare", "--methods", "topk,signsgd", "--budget", "30kB"],
            ["--budget", "50kB", "--rounds", 1],
            "rounds can extend a run, not shorten it",
        ),
    ],
)
def test_a_refused_resume_leaves_the_folder_as_it_was(command, refused, why, tmp_path):
    call(*command, *TASK, "--out", tmp_path)
    before = files(tmp_path)
    assert why in call(command[0], "--resume", tmp_path, *refused, code=2)
    assert files(tmp_path) == before
    call(command[0], "--resume", tmp_path)
    assert files(tmp_path).keys() == before.keys()


def test_a_refused_resume_without_a_server_leaves_the_folder_as_it_was(tmp_path):
    call("gossip", "--methods", "dsgd", "--data", "digits", "--nodes", 4, "--topology", "ring", "--rounds", 2,
         "--processes", 1, "--out", tmp_path)  # fmt: skip
    before = files(tmp_path)
    said = call("gossip", "--resume", tmp_path, "--rounds", 1, code=2)
    assert "rounds can extend a run, not shorten it: it has 2; got 1" in said
    assert files(tmp_path) == before
    call("gossip", "--resume", tmp_path)


def test_a_run_that_was_killed_keeps_what_it_had_logged_when_a_lower_budget_is_refused(tmp_path):
    """Its logs are longer than its checkpoint says; a resume cuts them, and a refused one does not."""
    data = fb.simulation.Task.of(*_task())

    def run(budget, rounds=3):
        schedule = fb.simulation.Schedule(rounds, processes=1, budget=budget)
        return fb.simulation.Federation(data, fb.methods.dense(), schedule, fb.Key(0), tmp_path)

    run(None).run()
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write("{")
    before = files(tmp_path)
    with pytest.raises(LocalError, match=r"the run has spent .*; got 100 B"):
        run(100)
    assert files(tmp_path) == before


def test_a_folder_without_a_run_goes_on(tmp_path):
    check_goes_on(tmp_path / "new", 1, 1)


def _task():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2), [(torch.randn(4, 3), torch.arange(4) % 2) for _ in range(2)]
