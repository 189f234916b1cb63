"""A command says at once all that is wrong with it and can be known without training."""

import pytest

from commands import call

TASK = """
import torch
from torch import nn


def model():
    return nn.Linear(4, 3)


def wrong():
    return nn.Linear(7, 3)


def data():
    x = torch.randn(8, 4)
    return [(x, x[:, :3].argmax(1))] * 2, None
"""
NO_OUT = "give --out, a new folder for all files of the run"


@pytest.fixture
def task(folder, monkeypatch):
    (folder / "problem_task.py").write_text(TASK)
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.mark.parametrize("command", ["train", "compare --methods dense,topk"])
def test_all_wrong_names_are_said_together_with_a_missing_folder(task, command):
    given = f"{command} --model problem_task:modl --data problem_task:dat --loss nowhere:loss --metric problem_task:r2"
    said = call(given, code=2)
    assert said.startswith("fewbits: 5 things are wrong:\n- ") and NO_OUT in said
    for sentence in ("did you mean 'model'", "did you mean 'data'", "there is no module 'nowhere'", "has no 'r2'"):
        assert sentence in said


@pytest.mark.parametrize("command", ["train", "compare --methods dense,topk"])
def test_a_model_that_does_not_fit_the_data_is_said_together_with_a_missing_folder(task, command):
    said = call(f"{command} --model problem_task:wrong --data problem_task:data", code=2)
    assert "2 things are wrong" in said and NO_OUT in said and "client 0: the model fails on x (8, 4) float32" in said


@pytest.mark.parametrize("command", ["train --method topk@frction=1", "compare --methods topk@frction=1"])
def test_a_wrong_option_a_wrong_tracker_and_a_missing_folder_are_said_at_once(folder, command):
    said = call(f"{command} --log tensorbord", code=2)
    assert "3 things are wrong" in said and "'fraction'" in said and "'tensorboard'" in said and NO_OUT in said


def test_one_problem_is_one_sentence_and_nothing_is_made(task):
    assert call("train --rounds 1", code=2).startswith(f"fewbits: {NO_OUT}")
    said = call("train --model problem_task:wrong --data problem_task:data --out a", code=2)
    assert said.startswith("fewbits: client 0: the model fails") and not (task / "a").exists()
