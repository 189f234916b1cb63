"""The notebooks of `examples` run from their first cell to their last, and show what a notebook can show."""

import ast
import json
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def cells(path):
    book = json.loads(path.read_text())
    assert book["nbformat"] == 4 and all(not cell.get("outputs") for cell in book["cells"])  # nothing stale
    return ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]


def shown(code, names):
    """Run a cell; what it ends with, if that is an expression, as a notebook would show it."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)


@pytest.mark.parametrize("name", ["own_model", "compare"])
def test_a_notebook_runs_and_shows_tables_and_pictures(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    found = [value for code in cells(EXAMPLES / f"{name}.ipynb") if (value := shown(code, names)) is not None]
    tables = [value._repr_html_() for value in found if not hasattr(value, "_repr_png_")]
    pictures = [value._repr_png_() for value in found if hasattr(value, "_repr_png_")]
    assert names["result"].accuracy > 0.8
    assert len(tables) == 1 and "<table" in tables[0]
    assert len(pictures) == 1 and pictures[0].startswith(b"\x89PNG")
