"""Imports go down the floors only: read from the source, so that lazy and type-only imports count too."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "fewbits"

# From the ground up: rooms of one floor do not import each other; a package's own __init__ imports its rooms.
FLOORS = [
    ["errors"],
    ["checks"],
    ["choices", "ctrl_c", "facts", "files", "json_text", "kernels", "rng", "sizes", "spec"],
    ["wire", "data", "models", "topology"],
    ["coders"],
    ["codecs.finiteness", "codecs.large", "codecs.same_memory"],
    ["codecs.base", "codecs.flat_view"],
    ["codecs.modular_encoding", "codecs.transforms.bases"],
    ["codecs.transforms"],
    ["codecs.chain"],
    ["codecs.wrappers"],
    ["codecs.lifts"],
    ["codecs"],
    ["factor", "links"],
    ["privacy"],
    ["learn.aggregation", "learn.optimizers"],
    ["learn"],
    ["learn.gossip", "metrics"],
    ["methods"],
    ["federated", "replicas"],
    ["analysis.diagnosis", "analysis.forecast", "engines.common"],
    ["report.text"],
    ["report.drawing", "report.page"],
    ["report.notebook"],
    ["engines.run_result"],
    ["engines.simulation", "engines.gossip", "engines.flower"],
    ["engines.distributed"],
    ["report"],
    ["flower", "report.diagnosis", "report.gossip", "trackers"],
    ["training"],
    ["comparison"],
    ["distributed", "simulation"],
    ["cli"],
    ["cli.gossip"],
    ["cli.export"],
    ["cli.app"],
    ["testing"],
]
HEIGHT = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
# Where a library may be imported, as the start of the module's name; nowhere else.
HOMES = {
    "flwr": ("engines.flower",),
    "flwr_datasets": ("data",),
    "torch.distributed": ("engines.distributed",),
    "networkx": ("topology",),
    "numba": ("kernels",),
    "sqlite3": ("links",),
    "peft": ("factor.loha",),
    "opacus": ("privacy.accountant",),
    "pandas": ("engines.common.history",),
    "torch.utils.tensorboard": ("trackers.tensorboard",),
    "wandb": ("trackers.weights_and_biases",),
    "mlflow": ("trackers.ml_flow",),
    "cryptography": ("privacy.secure_sum.key_agreement", "cli.handshake"),
}
UNSAFE = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve"}


def module_name(path, root):
    """`fewbits/codecs/topk.py` -> `fewbits.codecs.transforms.topk`; a package is named by its folder."""
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(root):
    return {module_name(path, root): path for path in sorted(root.rglob("*.py"))}


def imported(text, name, is_package):
    """Dotted names that a module imports anywhere: `from a import b` gives both `a` and `a.b`."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if is_package else name.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
            yield from ((base, f"{base}.{alias.name}") for alias in node.names)


def edges(root):
    """(importer, imported) for every import of one module of the tree by another."""
    known = modules(root)
    for name, path in known.items():
        for base, full in imported(path.read_text(), name, path.name == "__init__.py"):
            target = full if full in known else base
            if target.split(".")[0] == root.name:
                yield name, target


def room(name):
    """`fewbits.codecs.transforms.topk` -> `codecs.transforms`: the longest room; "" is `fewbits` itself."""
    inside = name.removeprefix("fewbits").removeprefix(".")
    holds = [room for room in HEIGHT if starts(inside, room)]
    return max(holds, key=len, default=inside.split(".")[0])


def goes_down(importer, target):
    here, there = room(importer), room(target)
    if here in ("", "__main__") or here == there or starts(target, importer):
        return True
    return here in HEIGHT and there in HEIGHT and HEIGHT[there] < HEIGHT[here]


def find_circle(pairs):
    graph = {}
    for importer, target in pairs:
        graph.setdefault(importer, set()).add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def foreign(root):
    """(module, dotted name of a library it imports), both forms of each name."""
    for name, path in modules(root).items():
        for names in imported(path.read_text(), name, path.name == "__init__.py"):
            yield from ((name, full) for full in dict.fromkeys(names))


def starts(name, prefix):
    return name == prefix or name.startswith(prefix + ".")


def test_every_import_goes_down_the_floors():
    assert [f"{a} -> {b}" for a, b in edges(SOURCE) if not goes_down(a, b)] == []


def test_no_modules_import_each_other_in_a_circle():
    assert find_circle(edges(SOURCE)) is None


def test_every_package_stands_on_a_floor():
    found = {room(name) for name in modules(SOURCE)} - {"", "__main__", "analysis", "engines"}
    assert found - set(HEIGHT) == set(), "enter the new room in FLOORS"


def test_frameworks_stay_in_their_own_files():
    strays = [
        f"{name} imports {full}"
        for name, full in foreign(SOURCE)
        for library, homes in HOMES.items()
        if starts(full, library) and not any(starts(name, f"fewbits.{home}") for home in homes)
    ]
    assert strays == []


def test_no_module_is_a_drawer_for_everything():
    drawers = {
        "utils",
        "util",
        "helpers",
        "helper",
        "common",
        "misc",
    }  # as a file; `engines.common` is a room of named ones
    assert [
        name for name in modules(SOURCE) if name.split(".")[-1] in drawers and name != "fewbits.engines.common"
    ] == []


def test_nothing_unpickles():
    assert [f"{name} imports {full}" for name, full in foreign(SOURCE) if full.split(".")[0] in UNSAFE] == []
    for name, path in modules(SOURCE).items():
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called != "torch.load", f"{name}: torch.load runs what it reads; use safetensors"
            assert not isinstance(node, ast.keyword) or node.arg != "allow_pickle", f"{name}: allow_pickle"
    assert [name for name, full in foreign(SOURCE) if full == "torch.load"] == []


# The walker itself is held to its word on small trees.


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("import fewbits.cli", "fewbits.cli"),
        ("from fewbits import cli", "fewbits.cli"),
        ("from fewbits.cli import anything", "fewbits.cli"),
        ("from .. import cli", "fewbits.cli"),
        ("from ..cli import app", "fewbits.cli.app"),
        ("def f():\n    from fewbits.cli import app", "fewbits.cli.app"),
        ("if TYPE_CHECKING:\n    import fewbits.cli.app", "fewbits.cli.app"),
        ("try:\n    import fewbits.cli.app\nexcept ImportError:\n    pass", "fewbits.cli.app"),
        ("import fewbits", "fewbits"),
    ],
)
def test_the_walker_sees_every_kind_of_import(tmp_path, text, target):
    root = tmp_path / "fewbits"
    for name, content in {
        "__init__": "",
        "wire/__init__": "",
        "wire/frame": text,
        "cli/__init__": "",
        "cli/app": "",
    }.items():
        path = root / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    found = set(edges(root))
    assert ("fewbits.wire.frame", target) in found
    assert not all(goes_down(a, b) for a, b in found)


def test_the_walker_finds_a_circle():
    circle = find_circle([("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")])
    assert circle is not None and set(circle) == {"a", "b", "c"}
    assert find_circle([("a", "b"), ("d", "a"), ("d", "b")]) is None
