"""The examples run as they stand, and learn."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_there_are_examples():
    assert {"own_model.py", "plain_loop.py"} <= {path.name for path in EXAMPLES.glob("*.py")}


def test_own_model_learns_and_recycles():
    result = runpy.run_path(str(EXAMPLES / "own_model.py"))["main"](rounds=12)
    assert result.accuracy > 0.85
    assert any(report.recycled for report in result.reports)


def test_plain_loop_learns_for_an_eighth_of_the_bytes():
    accuracy, sent = runpy.run_path(str(EXAMPLES / "plain_loop.py"))["main"](rounds=12)
    assert accuracy > 0.8
    assert sent < 2 * 12 * 8 * 4 * 1604 / 8


@pytest.mark.parametrize("name", ["own_model.py", "plain_loop.py"])
def test_examples_run_as_scripts(name, capsys):
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert "accuracy" in capsys.readouterr().out
