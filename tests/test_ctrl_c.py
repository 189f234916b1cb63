"""Ctrl-C at any moment of a command: exit code 130 and one line that says what was kept, and no traceback."""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fewbits.cli.app import main
from fewbits.ctrl_c import EXIT_CODE, Stop
from fewbits.engines.common.processes import Children
from forked import Forked
from test_cli import call

WITHIN = 120.0  # seconds
NOTHING = "stopped before anything was written\n"
TRAIN, COMPARE = ["train"], ["compare", "--methods", "dense,topk"]
GOSSIP = ["gossip", "--nodes", "4", "--topology", "ring"]


def start(*arguments):
    warnings = ["-W", "error", "-W", "ignore:'click:DeprecationWarning"]  # the second is typer's
    command = [sys.executable, *warnings, "-m", "fewbits", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def press(process: subprocess.Popen | Forked, folder: Path, moment: str) -> tuple[str, str]:
    """Send SIGINT to all processes once the moment has come: a file of the run, or a library that is loaded."""
    maps, until = Path(f"/proc/{process.pid}/maps"), time.monotonic() + WITHIN
    while not (any(folder.glob(moment)) or moment in maps.read_text()):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.01)  # maps are long
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    out, err = process.communicate(timeout=WITHIN)
    assert process.returncode == EXIT_CODE, (out, err)
    assert "Traceback" not in out + err
    return out, err


@pytest.mark.slow
@pytest.mark.parametrize(("command", "library"), [(TRAIN, "numpy"), (COMPARE, "libtorch_cpu"), (["plan"], "torch")])
def test_while_libraries_are_loaded(command, library, tmp_path):
    out = [] if command == ["plan"] else ["--out", tmp_path / "run"]
    assert press(start(*command, *out), tmp_path, library) == (NOTHING, "")
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "moment", "processes"),
    [
        (TRAIN, "wire.json", 1),
        (TRAIN, "states", 2),
        (COMPARE, "compare.json", 2),
        (GOSSIP, "*/lock", 1),
    ],
)
def test_before_the_first_round_the_run_is_kept(command, moment, processes, tmp_path):
    folder = tmp_path / "run"
    settings = ["--processes", processes, "--rounds", 100_000, "--out", folder]
    out, _ = press(Forked(["-m", "fewbits", *command, *settings]), folder, moment)
    assert out.splitlines()[-1].endswith(f"; continue with: fewbits {command[0]} --resume {folder}")


@pytest.mark.slow
def test_a_run_that_was_stopped_before_its_first_round_goes_on(tmp_path):
    settings = ["--clients", 4, "--batch-size", 60, "--processes", 1, "--rounds", 2]
    press(Forked(["-m", "fewbits", *TRAIN, *settings, "--out", tmp_path / "cut"]), tmp_path / "cut", "config.json")
    out, _ = press(start("train", "--resume", tmp_path / "cut"), tmp_path, "libtorch_cpu")
    assert out == NOTHING
    call("train", "--resume", tmp_path / "cut")
    call("train", *settings, "--out", tmp_path / "whole")
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("cut", "whole")]
    assert models[0] == models[1]


def test_short_work_is_ended_first(monkeypatch):
    done = []
    monkeypatch.setattr(os, "_exit", done.append)
    monkeypatch.setattr(os, "write", lambda _, said: done.append(said))
    stop = Stop()
    stop.sentence = "stopped here"
    with stop:
        stop()
        done.append("work")
    assert done == ["work", b"stopped here\n", EXIT_CODE]


def test_a_command_collects_garbage_once_all_is_imported(monkeypatch):
    before, found = signal.getsignal(signal.SIGINT), []
    monkeypatch.setattr("fewbits.cli.app.app", lambda: found.append(gc.isenabled()))
    monkeypatch.setattr(gc, "freeze", lambda: found.append("frozen"))  # what this process holds stays as it is
    gc.disable()
    try:
        main()
    finally:
        gc.enable()
        signal.signal(signal.SIGINT, before)
    assert found == ["frozen", True]


def test_a_worker_never_runs_its_parents_handler():
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(3))
    children = Children()
    try:
        pipe = children.fork(lambda pipe: pipe.send_bytes(str(signal.getsignal(signal.SIGINT)).encode()))
        assert pipe.recv_bytes() == str(signal.SIG_IGN).encode()
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.signal(signal.SIGINT, before)
        children.end()
