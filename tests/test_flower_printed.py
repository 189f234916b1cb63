"""What `fewbits flower new` prints is what a user types next: it runs as printed, in a real `flwr run`."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import faults
import fewbits
import loopback
from commands import call

BIN = Path(sys.executable).parent
pytestmark = pytest.mark.slow


@pytest.fixture
def environment(tmp_path):
    """A user's shell, with a SuperLink of this test alone: the one that `flwr run` starts stays on a fixed port."""
    home, port = tmp_path / "home", loopback.free_port()
    home.mkdir()
    lines = ['[superlink]\ndefault = "here"\n[superlink.here]', f'address = "127.0.0.1:{port}"\ninsecure = true\n']
    (home / "config.toml").write_text("\n".join(lines))
    environment = os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(fewbits.__file__).parents[1]),
    }
    command = ["flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "superlink.log").open("wb") as log:
        superlink = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        loopback.wait_for(port)
        yield environment
    finally:
        os.killpg(superlink.pid, signal.SIGTERM)
        superlink.wait(30)
        faults.wait(lambda: not loopback.started_with(str(home)), "every process to end")


def test_a_new_project_runs_by_the_commands_that_are_printed(tmp_path, environment, monkeypatch):
    """From an empty folder to accuracy and bytes; the clients leave nothing behind."""
    monkeypatch.chdir(tmp_path)
    printed = call("flower new D")
    commands = printed.split("next: ")[1].strip()
    assert commands == "cd D && flwr run . --stream"
    run = subprocess.run(
        commands, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    (line,) = re.findall(r"^fewbits: (\{.*\})$", run.stdout, re.MULTILINE)
    found = json.loads(line)
    assert found["clients"] == 2 and found["messages"] == {"up": 10, "down": 10} and found["notes"] == []
    assert found["accuracy"] > 0.9 and 0 < found["frame_bytes"]["up"] < 10_000
    assert "fewbits: 2 of 2 clients removed the state of this run" in run.stdout
    assert [path for path in (tmp_path / "home" / "fewbits").rglob("*") if path.is_file()] == []
    assert shlex.split(commands)[-1] == "--stream"  # neither an option nor another step


def test_a_language_model_runs_by_the_commands_that_are_printed(tmp_path, environment, monkeypatch):
    """The table has a row per round, and the bytes of both directions."""
    pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    printed = call("flower new D --template lm")
    commands = printed.split("next: ")[1].strip() + ' --run-config "rounds=2 steps=2"'
    run = subprocess.run(
        commands, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    rows = re.findall(r"^ +(\d) +([\d.]+) +([\d.]+) +([\d.]+)$", run.stdout, re.MULTILINE)
    assert [row[0] for row in rows] == ["0", "1", "2"] and float(rows[2][1]) < float(rows[0][1])
    (total,) = re.findall(r"^total +([\d.]+) +([\d.]+)  2 clients$", run.stdout, re.MULTILINE)
    assert [round(sum(float(row[i]) for row in rows), 6) for i in (2, 3)] == [float(x) for x in total]
    assert 0.01 < float(total[0]) < 0.05 < float(total[1])
