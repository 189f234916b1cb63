"""Files, classes, functions and argument lists stay small enough to be read in one sitting."""

import ast
from functools import cache
from pathlib import Path
from statistics import median
from typing import NamedTuple

SOURCE = Path(__file__).parents[1] / "src" / "fewbits"

LARGEST_FILE, MEDIAN_FILE = 300, 100  # lines
LARGEST_CLASS, MEDIAN_FUNCTION = 250, 6  # lines, with docstrings
MOST_PARAMETERS = 8  # without self
# Functions with more parameters, each with its reason. Whoever calls them names every argument.
MANY_PARAMETERS = {
    "federate": "an entry point: a whole run in one call",
    "gossip": "an entry point: a whole run in one call",
    "compare": "an entry point: many runs in one call",
    "compress": "an entry point: a server's strategy in one call",
    "federated": "an entry point: a server's strategy in one call",
    "intrinsic": "a method: every option of the paper is an argument",
    "choco": "a method: every option of the paper is an argument",
    "malcom": "a method: every option of the paper is an argument",
}


class Piece(NamedTuple):
    """A class or function of the source."""

    name: str
    lines: int
    parameters: int = 0


def lines(node):
    return node.end_lineno - node.lineno + 1


def parameters(function):
    """How many arguments it takes, `*args` and `**kwargs` one each; an object or class in front is none."""
    a = function.args
    names = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"])) + (a.vararg is not None) + (a.kwarg is not None)


@cache
def trees():
    return [(path, ast.parse(path.read_text())) for path in sorted(SOURCE.rglob("*.py"))]


def classes():
    found = [(path, node) for path, tree in trees() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return [Piece(f"{path.relative_to(SOURCE)}: {node.name}", lines(node)) for path, node in found]


def functions():
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [(path, node) for path, tree in trees() for node in ast.walk(tree) if isinstance(node, kinds)]
    return [Piece(f"{path.relative_to(SOURCE)}: {node.name}", lines(node), parameters(node)) for path, node in found]


def test_files_are_short():
    sizes = {str(path.relative_to(SOURCE)): len(path.read_text().splitlines()) for path in SOURCE.rglob("*.py")}
    assert {name: size for name, size in sizes.items() if size > LARGEST_FILE} == {}
    assert median(sizes.values()) <= MEDIAN_FILE


def test_classes_are_short():
    assert [piece for piece in classes() if piece.lines > LARGEST_CLASS] == []


def test_half_of_all_functions_have_six_lines_or_fewer():
    assert median(piece.lines for piece in functions()) <= MEDIAN_FUNCTION


def test_functions_take_few_arguments():
    many = [piece for piece in functions() if piece.parameters > MOST_PARAMETERS]
    assert [piece for piece in many if piece.name.split(": ")[1] not in MANY_PARAMETERS] == []
    assert {piece.name.split(": ")[1] for piece in many} == set(MANY_PARAMETERS), "take the name off the list"


def test_self_and_stars_are_counted_as_said():
    (method,) = ast.parse("class A:\n    def f(self, a, /, b, *c, d, **e): ...").body[0].body  # type: ignore[attr-defined]
    assert parameters(method) == 5
