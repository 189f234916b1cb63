"""A run that diverges says so; one of auto's choice then ends, and the next choice gets what is left of the budget."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

import fewbits as fb
from fewbits.cli import commands
from fewbits.cli.app import app
from fewbits.cli.choice import with_choice
from fewbits.cli.instead import with_instead
from fewbits.engines.simulation.divergence import diverges
from fewbits.training.auto import Choice

GOOD = Choice("topk@fraction=0.1", 0.1, None, "auto goes on with topk")
BAD = Choice("topk@fraction=0.1", 1e9, None, "auto chose too long steps", GOOD)


def clients():
    torch.manual_seed(0)
    return [(x := torch.randn(20, 20), x[:, :4].argmax(1)) for _ in range(4)]


def model(key=None):
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(20, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))


def reports(*losses):
    (made,) = fb.federate(model(), clients(), "dense", rounds=1).reports
    return [replace(made, train_loss=loss, diverged=loss is None) for loss in losses]


def test_a_run_diverges_when_its_loss_stays_far_above_its_start():
    assert diverges(reports(1, 2, 2, 2, 2, 2))
    assert diverges(reports(1, None, 2, None, 2, 2))  # no client's update was finite
    assert diverges(reports(*[None] * 5))
    assert not diverges(reports(1, 2, 2, 2, 2))  # for too few rounds
    assert not diverges(reports(1, 2, 2, 2, 2, 1))
    assert not diverges(reports(1, 1.2, 1.2, 1.2, 1.2, 1.2))
    assert not diverges(reports(-3, -2, -2, -2, -2, -2))  # a log-density: its zero means nothing


def test_a_run_says_it_once_and_goes_on():
    result = fb.federate(model(), clients(), "topk", rounds=6, local=fb.LocalSGD(lr=1e9))
    assert len(result.reports) == 6
    assert [note for note in result.notes if "diverges" in note] == [
        "round 5: the run diverges: for 5 rounds no client's update could be used, or the training loss was over 1.5 "
        "times that of the first round"
    ]


def test_a_run_that_gives_up_ends_at_the_same_round_after_a_stop(tmp_path):
    task = fb.simulation.Task.of(model(), clients(), None, fb.LocalSGD(lr=1e9), None, None)
    schedule = fb.simulation.Schedule(50, processes=1, checkpoint_every=1, give_up=True)
    ends = []
    for stop in (99, 5):
        for _ in range(2):  # the second one goes on
            task.model.load_state_dict(model().state_dict())
            run = fb.simulation.Federation(task, fb.methods.topk(), schedule, fb.Key(0), tmp_path / str(stop))
            run.run(stop=lambda run=run, stop=stop: len(run.reports) == stop)
        ends.append((len(run.reports), run.gave_up))
    assert set(ends) == {(6, True)}


@pytest.mark.parametrize("make", [model, lambda key: model()])
def test_the_next_choice_gets_what_is_left_of_the_budget(make, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["fewbits.training.federate"], "choose", lambda *args, **options: BAD)
    given = make() if make is model else make

    def play():
        return fb.federate(given, iter(clients()), "auto", budget="30kB", test=clients()[0], out=tmp_path)

    result = play()
    first, second = (json.loads((tmp_path / name / "summary.json").read_text()) for name in (".", "instead"))
    spent = [one["up_frame_bytes"] + one["down_frame_bytes"] for one in (first, second)]
    assert 0.95 * 30_000 < sum(spent) <= 30_000 and result.bytes == spent[1]
    assert result.loss < result.reports[0].loss and all(torch.isfinite(p).all() for p in result.model.parameters())
    said = " ".join(result.notes)
    assert said.index(BAD.why) < said.index("given up after 6 rounds, as it diverges") < said.index(GOOD.why)
    given = model() if make is model else make
    again = play()  # all of it is there
    assert (again.bytes, again.accuracy) == (result.bytes, result.accuracy)


def test_the_command_line_does_the_same_and_goes_on_after_a_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(
        commands, "chosen", lambda config, *rest, **options: with_instead(with_choice(config, BAD), BAD.instead)
    )
    words = ["--method", "auto", "--budget", "60kB", "--clients", "4", "--batch-size", "200", "--processes", "1"]
    found = CliRunner().invoke(app, ["train", *words, "--out", str(tmp_path)])
    assert found.exit_code == 0, found.output
    said = " ".join(found.output.split())
    assert "given up after 6 rounds, as it diverges" in said and GOOD.why in said
    sizes = [json.loads((tmp_path / name / "summary.json").read_text()) for name in (".", "instead")]
    assert 57_000 < sum(one["up_frame_bytes"] + one["down_frame_bytes"] for one in sizes) <= 60_000
    rows = CliRunner().invoke(app, ["report", str(tmp_path)]).output
    assert "lr=1000000000.0" in rows and "lr=0.1" in rows
    (tmp_path / "instead" / "summary.json").unlink()
    assert CliRunner().invoke(app, ["train", "--resume", str(tmp_path)]).exit_code == 0
    assert json.loads((tmp_path / "instead" / "summary.json").read_text())["rounds"] == sizes[1]["rounds"]
