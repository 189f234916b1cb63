"""The wheel in an environment of its own, installed without our pins: every command starts, and says what it lacks."""

import ast
import functools
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAME = re.compile(r"[A-Za-z0-9._-]+")
WHERE = {"flower": ("engines/flower/", "flower.py")}  # an extra that a module may import at once: its own engine
EVERY_HELP = """
import sys, typer
from typer.testing import CliRunner
from fewbits.cli.app import app

def walk(command, path=()):
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from walk(child, (*path, name))

def ask(*arguments):
    result = CliRunner().invoke(app, list(arguments))
    print(f"$ {' '.join(arguments)} -> {result.exit_code}", result.output if result.exit_code else "", flush=True)

for path in walk(typer.main.get_command(app)):
    ask(*path, "--help")
for line in sys.argv[1:]:
    ask(*line.split())
"""


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements):
    return {canonical(NAME.match(text)[0]) for text in requirements}


def needs(name):
    """The distributions that one requires here, with all that these require."""
    found, left = set(), [canonical(name)]
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        for text in importlib.metadata.requires(name) or ():
            marker = text.partition(";")[2]
            if "extra ==" not in marker and installed(NAME.match(text)[0]):
                left.append(canonical(NAME.match(text)[0]))
    return found


def installed(name):
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def run(*command, cwd, **more):
    environment = {k: v for k, v in os.environ.items() if k not in ("PIP_CONSTRAINT", "PYTHONPATH")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, **more
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The folder of an environment with the wheel and what it requires, and nothing else.

    Only torch is lent from this environment, with what it requires: a download of it takes up to gigabytes.
    """
    folder = tmp_path_factory.mktemp("wheel")
    code, said = run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    assert code == 0, f"the wheel cannot be built; this check needs a package index for hatchling:\n{said[-2000:]}"
    (wheel,) = folder.glob("fewbits-*.whl")
    venv.create(folder / "clean", with_pip=False, symlinks=True)
    (site,) = (folder / "clean").glob("lib/python*/site-packages")
    lent = folder / "lent"
    lent.mkdir()
    for name in needs("torch"):
        for top in {
            path.parts[0] for path in importlib.metadata.files(name) if path.parts[0] not in ("..", "__pycache__")
        }:
            (lent / top).symlink_to(Path(str(importlib.metadata.distribution(name).locate_file(top))))
    (site / "lent.pth").write_text(f"{lent}\n")
    pip = (sys.executable, "-m", "pip", "--python", folder / "clean" / "bin" / "python", "install", "--no-compile")
    code, said = run(*pip, wheel, cwd=folder)
    assert code == 0, f"the wheel cannot be installed; this check needs a package index:\n{said[-2000:]}"
    return folder


@pytest.mark.slow
def test_every_command_starts_from_the_wheel_without_pins_and_extras(clean):
    (clean / "input.txt").write_text("FIRST:\nTo be or not to be.\n\nSECOND:\nThat is the question.\n\n" * 40)
    fewbits = clean / "clean" / "bin" / "fewbits"
    code, said = run(fewbits, "--version", cwd=clean)
    assert (code, said) == (0, f"fewbits {importlib.metadata.version('fewbits')}\n")
    lines = ["methods", "methods topk", "data", "models", "plan --method dense,lbgm --rounds 2", "flower new app"]
    lacking = {"demo": "data", "gossip --out g": "data", "train --out x": "data", "diagnose --out d": "data"}
    code, said = run(clean / "clean" / "bin" / "python", "-c", EVERY_HELP, *lines, *lacking, cwd=clean)
    assert code == 0, said
    answers = dict(re.findall(r"^\$ (.*) -> (\d+)", said, re.MULTILINE))
    assert answers.pop("flower check --help") == "0" and len(answers) > 14 + len(lines)
    assert {line for line, code in answers.items() if code != "0"} == set(lacking), said
    for line, extra in lacking.items():
        assert f"pip install 'fewbits[{extra}]'" in said.partition(f"$ {line} -> 2")[2].splitlines()[0], said


@pytest.mark.slow
def test_a_run_of_two_rounds_needs_no_extra(clean):
    (clean / "input.txt").write_text("FIRST:\nTo be or not to be.\n\nSECOND:\nThat is the question.\n\n" * 40)
    task = "--data shakespeare --model charlstm --data-dir . --clients 2 --steps 1 --batch-size 2 --processes 1"
    code, said = run(
        clean / "clean" / "bin" / "python", "-m", "fewbits", "train", *task.split(),
        *("--method", "fedpaq", "--rounds", "2", "--out", "two"), cwd=clean,
    )  # fmt: skip
    assert code == 0 and "round 1/2" in said and "round 2/2" in said and "Traceback" not in said, said
    assert "compiling kernels once" in said and "pip install 'fewbits[report]'" in said
    assert (clean / "two" / "model.safetensors").stat().st_size and (clean / "two" / "report.html").stat().st_size


# What is imported is declared.


@functools.cache
def third_party():
    """(file, distribution, whether it is imported as soon as the file is)."""
    found = []
    known = importlib.metadata.packages_distributions()
    for path in sorted((ROOT / "src" / "fewbits").rglob("*.py")):
        tree = ast.parse(path.read_text())
        later = (ast.FunctionDef, ast.ClassDef)
        first = [one for one in tree.body if not is_type_checking(one) and not isinstance(one, later)]
        at_once = {id(node) for one in first for node in ast.walk(one)}
        for node in ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for top in {module.partition(".")[0] for module in modules} - {"fewbits", *sys.stdlib_module_names}:
                file = path.relative_to(ROOT / "src" / "fewbits").as_posix()
                found.append((file, {canonical(name) for name in known.get(top, [top])}, id(node) in at_once))
    return found


def is_type_checking(statement):
    return isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"


def test_every_import_is_declared_and_extras_are_imported_when_they_are_needed():
    required, extras = names(PROJECT["dependencies"]), PROJECT["optional-dependencies"]
    found = third_party()
    assert len(found) > 100
    for file, distributions, at_once in found:
        if distributions & required:
            continue
        extra = next((extra for extra, texts in extras.items() if distributions & names(texts)), None)
        assert extra, f"{file} imports {distributions}, which pyproject.toml does not declare"
        assert not at_once or file.startswith(WHERE.get(extra, ())), (
            f"{file} imports {distributions} of [{extra}] at once"
        )


def test_everything_required_is_imported():
    used = {name for _, distributions, _ in third_party() for name in distributions}
    assert names(PROJECT["dependencies"]) <= used
