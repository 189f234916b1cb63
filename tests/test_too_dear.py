"""A method of which one round is above a comparison's budget is left out; where all are, the call is refused."""

import json
import re

import pytest
import torch
from typer.testing import CliRunner

import fewbits as fb
from fewbits import LocalError
from fewbits.analysis.forecast import forecast
from fewbits.cli.app import app
from fewbits.privacy.secure_sum.messages import client_bytes

TASK = ["--data", "digits", "--clients", "6", "--batch-size", "200", "--processes", "1"]
LEFT_OUT = r"dense is left out: one round of dense costs .* kB by its forecast, more than the budget of 15 kB"
SEED = "is the model at first contact: give the model as a function of a key, so that its start travels as a seed"


def clients():
    torch.manual_seed(0)
    return [(x := torch.randn(20, 100), x[:, :4].argmax(1)) for _ in range(6)]


def module():
    torch.manual_seed(3)
    return torch.nn.Linear(100, 4)


def of_key(key):
    model = torch.nn.Linear(100, 4)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.1 * torch.randn(p.shape, generator=key.generator()))
    return model


def call(*words, code=0):
    found = CliRunner().invoke(app, [str(word) for word in words])
    assert found.exit_code == code, found.output
    return " ".join(found.output.split())


def test_compare_leaves_out_what_is_too_dear(tmp_path):
    found = fb.compare(module(), clients(), ["dense", "topk"], budget="15kB", test=clients()[0], out=tmp_path)
    assert [row.method for row in found.rows] == ["topk"]
    (note,) = [note for note in found.notes if "left out" in note]
    assert re.fullmatch(LEFT_OUT, note)
    assert "dense is left out" in (tmp_path / "report.html").read_text()
    more = fb.compare(module(), clients(), ["dense", "topk"], budget="60kB", test=clients()[0], out=tmp_path)
    assert [row.method for row in more.rows] == ["dense", "topk"]


def test_compare_refuses_where_no_method_has_room(tmp_path):
    with pytest.raises(
        LocalError, match=r"one round of dense costs .*; one round of topk costs .* budget of 5 kB"
    ) as e:
        fb.compare(module(), clients(), ["dense", "topk"], budget="5kB", out=tmp_path)
    assert str(e.value).endswith("or raise the budget, or take a coarser method or fewer clients per round")
    assert not list(tmp_path.iterdir())


def test_the_command_leaves_out_what_is_too_dear_and_plays_it_once_the_budget_has_room(tmp_path):
    words = ["--methods", "dense,topk", "--budget", "150kB", *TASK, "--out", tmp_path / "a"]
    said = call("compare", *words)
    assert "note: dense is left out: one round of dense costs" in said and "the budget of 150 kB" in said
    assert [one["method"] for one in json.loads((tmp_path / "a" / "summary.json").read_text())] == ["topk"]
    page = (tmp_path / "a" / "report.html").read_text()
    assert "<title>topk on digits" in page and "dense is left out" in page
    assert "dense is left out" in call("compare", "--resume", tmp_path / "a")
    said = call("compare", "--resume", tmp_path / "a", "--budget", "500kB")
    assert "left out" not in said
    assert [one["method"] for one in json.loads((tmp_path / "a" / "summary.json").read_text())] == ["dense", "topk"]


def test_a_round_that_is_dear_by_first_contact_says_how_to_make_it_cheap():
    """A module's weights travel whole; those of a function of a key do not, so they need no advice."""
    with pytest.raises(LocalError, match=f"one round of topk costs .*; most of it, 9.* kB, {SEED}; or raise"):
        fb.federate(module(), clients(), "topk", budget="5kB")
    result = fb.federate(of_key, clients(), "topk", budget="5kB")
    assert result.bytes <= 5_000 and result.reports
    for model, method, budget in ((of_key, "topk", 200), (module(), "dense", "15kB")):
        with pytest.raises(LocalError, match=r"one round of .* costs") as error:
            fb.federate(model, clients(), method, budget=budget)
        assert "first contact" not in str(error.value)


@pytest.mark.parametrize("method", ["dense", "masked+dense", "intrinsic@dim=16"])
def test_a_forecast_knows_the_part_of_first_contact(method):
    """It is what clients that are new receive: of a run of one round all, beside the messages around masks."""
    built = fb.methods.named(method)
    (one, *_), (three, *_) = (forecast(module, built, 6, None, rounds) for rounds in (1, 3))
    result = fb.federate(module(), clients(), method, 1)
    around = 0 if built.masking is None else 6 * client_bytes(6)[1]
    assert one.down_first == three.down_first == result.ledger.frame_bytes["down"] - around
