"""What a program that imports fewbits gets with it, and what stays away; one new interpreter shows all of it."""

import json
import subprocess
import sys
from typing import Any, NamedTuple

import pytest

from fewbits.ctrl_c import EXIT_CODE

HEAVY = {
    "flwr",
    "flwr_datasets",
    "datasets",
    "numba",
    "matplotlib",
    "sklearn",
    "peft",
    "transformers",
    "opacus",
    "cryptography",
    "networkx",
    "pandas",
    "tensorboard",
    "wandb",
    "mlflow",
}
PROGRAM = """
import gc, json, os, signal, sys
from pathlib import Path

before, found = signal.getsignal(signal.SIGINT), {}
import fewbits
found["untouched"] = [signal.getsignal(signal.SIGINT) is before, gc.isenabled()]
found["fewbits"] = list(sys.modules)
import fewbits.testing
found["fewbits.testing"] = list(sys.modules)
import fewbits.privacy.accountant
found["fewbits.privacy.accountant"] = list(sys.modules)
sys.modules["flwr"] = sys.modules["flwr.app"] = None
try:
    import fewbits.flower
except fewbits.LocalError as error:
    found["without flwr"] = str(error)
Path("found.json").write_text(json.dumps(found))

from fewbits.ctrl_c import listen
class Busy:
    def flush(self):
        raise RuntimeError("reentrant call")
listen()
sys.stdout = Busy()
os.kill(os.getpid(), signal.SIGINT)
"""


class Played(NamedTuple):
    """What the program saw of itself, and how it ended under Ctrl-C: exit code, stdout and stderr."""

    found: dict[str, Any]
    end: tuple[int, str, str]


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fresh")
    (folder / "mine.py").write_text(PROGRAM)
    done = subprocess.run([sys.executable, "mine.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert (folder / "found.json").exists(), done.stderr
    return Played(json.loads((folder / "found.json").read_text()), (done.returncode, done.stdout, done.stderr))


def test_a_program_that_imports_fewbits_keeps_its_own_way_with_ctrl_c_and_garbage(played):
    assert played.found["untouched"] == [True, True]


def test_importing_fewbits_imports_no_framework_and_no_compiler(played):
    assert "torch" in played.found["fewbits"]
    assert HEAVY & set(played.found["fewbits"]) == set()


def test_neither_pytest_nor_another_test_library_is_imported_with_fewbits_testing(played):
    assert {"pytest", "hypothesis", "_pytest"} & set(played.found["fewbits.testing"]) == set()


def test_opacus_is_imported_only_when_asked(played):
    assert "opacus" not in played.found["fewbits.privacy.accountant"]


def test_without_flower_the_sentence_says_what_to_install(played):
    assert played.found["without flwr"] == "fewbits.flower needs Flower: pip install 'fewbits[flower]'"


def test_ctrl_c_says_its_line_while_something_is_being_printed(played):
    assert played.end == (EXIT_CODE, "stopped before anything was written\n", "")
