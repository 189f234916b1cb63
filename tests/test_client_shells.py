"""What a client does stands once, in ClientCore: the three clients around it stay short."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "fewbits"
SHELLS = [
    ("federated/client.py", "Client", ()),
    ("engines/simulation/worker.py", "Worker", ("evaluate", "evaluate_personal", "settle", "close")),
    ("engines/flower/client_end.py", "ClientEnd", ()),
]
MOST = 60


def lines(function):
    """Lines of a function's body without its docstring and comments; a statement over three lines is three."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return len({line for node in body for part in ast.walk(node) if hasattr(part, "lineno") for line in span(part)})


def span(node):
    return (node.lineno, node.end_lineno)


def methods(path, name):
    tree = ast.parse((SOURCE / path).read_text())
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    return [node for node in found.body if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize(("path", "name", "others"), SHELLS, ids=[name for _, name, _ in SHELLS])
def test_a_client_of_an_engine_is_a_thin_shell_around_the_core(path, name, others):
    found = {function.name: lines(function) for function in methods(path, name) if function.name not in others}
    assert set(others) <= {function.name for function in methods(path, name)}
    assert sum(found.values()) <= MOST, found


def test_only_the_core_encodes_updates():
    """No engine touches a client's subspaces, noise, masks or codecs by itself."""
    own = ("privacy.apply", "masking.hide", "matrix.project", ".pieces(sent")
    files = [path for room in ("engines", "federated") for path in (SOURCE / room).rglob("*.py")]
    assert {path.name for path in files if any(call in path.read_text() for call in own)} == {"client_core.py"}
