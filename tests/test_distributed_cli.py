"""`torchrun ... -m fewbits gossip`: real processes, the same bytes, and a resume after a node has died."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from test_cli import call

ARGUMENTS = ["gossip", "--data", "digits", "--nodes", "4", "--topology", "ring", "--split", "classes:4"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
WITHIN = 150  # seconds
SAME = ("ledger.jsonl", "nodes.safetensors", "model.safetensors")


@contextlib.contextmanager
def torchrun(processes, *arguments, options=()):
    """A running torchrun; it and its processes are killed afterwards."""
    command = [*TORCHRUN, str(processes), *options, "-m", "fewbits", *map(str, arguments)]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    source = str(Path(__file__).parents[1] / "src")
    environment["PYTHONPATH"] = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        yield run
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()


def ended(run):
    """(exit code, stdout and stderr)."""
    output, _ = run.communicate(timeout=WITHIN)
    return run.returncode, output


def children(pid):
    """Ids of the process's children."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found.append(int(stat.parent.name))
    return sorted(found)


@pytest.mark.slow
def test_three_processes_of_which_one_dies_write_the_files_of_one_process(tmp_path):
    """The node dies in the first method's run; torchrun starts all again, and they go on with both methods."""
    more = ["--nodes", 3, "--methods", "malcom,dsgd", "--rounds", 24, "--evaluate-every", 10, "--inactive", 0.3]
    more += ["--checkpoint-every", 2, "--out"]
    with torchrun(3, *ARGUMENTS, *more, tmp_path / "three", options=["--max-restarts", "1"]) as run:
        saved = tmp_path / "three" / "malcom-seed0" / "checkpoints" / "node-0001" / "round-00000002.json"
        until = time.monotonic() + WITHIN
        while not saved.exists() and run.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        os.kill(children(run.pid)[-1], signal.SIGKILL)
        code, output = ended(run)
    assert code == 0, output
    assert "was lost" in output or "died without a reason" in output
    call(*ARGUMENTS, *more, tmp_path / "one", "--processes", 1)
    for method in ("malcom", "dsgd"):
        for name in SAME:
            one, three = (tmp_path / folder / f"{method}-seed0" / name for folder in ("one", "three"))
            assert one.read_bytes() == three.read_bytes(), (method, name)
    assert (tmp_path / "three" / "report.html").exists()


@pytest.mark.slow
def test_every_process_reports_a_folder_that_is_not_free(tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    slowly = ["--monitor-interval", "4"]  # or torchrun kills the second process when it has seen the end of the first
    with torchrun(2, *ARGUMENTS, "--rounds", 2, "--out", tmp_path, options=slowly) as run:
        code, output = ended(run)
    assert code == 1
    said = "holds other files (thesis.tex), and no run of this program"
    assert output.partition("Failures:")[0].count(said) == 2, output
    assert f"{tmp_path} {said}" in output.strip().splitlines()[-2]  # below torchrun's own traceback
    assert "fewbits/cli" not in output  # no traceback of ours


def test_the_sentence_is_left_where_torchrun_looks_for_it(tmp_path, monkeypatch):
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    wrong = "gossip", "--nodes", "3", "--topology", "torus", "--rounds", "1", "--out", tmp_path / "a"
    call(*wrong, code=2)
    assert json.loads(file.read_text())["message"]["message"].startswith("fewbits: topology.torus: needs")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "gone" / "error.json"))
    assert "fewbits: topology.torus: needs" in call(*wrong, code=2)
