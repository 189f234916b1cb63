"""Output that cannot be written: one line on stderr names stdout, the exit code is not 0, and there is no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fewbits as fb
from fewbits.cli.app import app

FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
RUN = "--clients 2 --rounds 1"
COMMANDS = [
    "--help",
    "--version",
    "methods",
    "methods topk",
    "models",
    "data",
    f"plan --method topk --model mlp --data digits {RUN}",
    f"plan --method topk --model mlp --data digits {RUN} --json -",
    f"train --method dense --data digits {RUN} --out OUT/run",
    "inspect OUT/frame",
    "flower new OUT/app",
    *(f"{name} --help" for name in ("train", "compare", "gossip", "diagnose", "recommend", "export", "flower check")),
]


def run(words: str, monkeypatch) -> object:
    """The exit code of a command whose stdout is full."""
    with FULL.open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as ended:
            app(words.split())
        return ended.value.code


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_says_that_stdout_is_full(words, tmp_path, monkeypatch, capsys):
    (tmp_path / "frame").write_bytes(fb.Sender(fb.Raw(), fb.Spec((3,)), fb.Key(0)).send(torch.ones(3)))
    code = run(words.replace("OUT", str(tmp_path)), monkeypatch)
    said = capsys.readouterr().err.strip().splitlines()
    assert code == 1
    assert said[-1] == "fewbits: stdout: No space left on device" and "Traceback" not in "\n".join(said)


def test_the_process_ends_with_that_line_alone():
    words = [sys.executable, "-m", "fewbits", "--version"]
    with FULL.open("w") as full:
        ended = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (1, "fewbits: stdout: No space left on device\n")
