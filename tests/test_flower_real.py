"""Flower itself: its simulation, and a SuperLink with two SuperNodes over TLS. Processes, free ports, no network."""

import hashlib
import json
import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from safetensors.torch import load_file

import fewbits
from digits_task import federation, model_bytes, task
from fewbits import methods
from fewbits.cli.assemble import build_task, load_data
from fewbits.cli.config import RunConfig
from fewbits.engines.memory import Federation, Schedule
from fewbits.link.ledger import read

HERE = Path(__file__).parent
FLOWER = HERE.parent / "docs" / "flower.md"
pytestmark = pytest.mark.slow


def environment(home: Path) -> dict[str, str]:
    source = Path(fewbits.__file__).parents[1]
    return os.environ | {
        "PYTHONPATH": f"{source}{os.pathsep}{HERE}",
        "OMP_NUM_THREADS": "1",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }


def test_flowers_simulation_makes_the_frames_and_the_model_of_the_engine_memory(tmp_path):
    """10 clients, 5 rounds, LBGM + top-k: the same hash, and the same bytes per client and round."""
    command = [sys.executable, str(HERE / "flower_simulation.py"), str(tmp_path), "10", "5", "0.9"]
    run = subprocess.run(command, env=environment(tmp_path / "home"), capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr[-5000:]
    found = json.loads((tmp_path / "found.json").read_text())
    memory = federation(methods.lbgm_topk(threshold=0.9), tmp_path / "memory", 5, task=task(10))
    memory.run()
    assert found["model"] == hashlib.sha256(model_bytes(memory.task.model)).hexdigest()
    entries = read(tmp_path / "memory" / "ledger.jsonl")
    assert found["frames"] == sorted([e.round, e.client, e.direction, e.frame_bytes, e.payload_bytes] for e in entries)
    assert found["notes"] == []


@pytest.fixture(scope="module")
def loopback():
    folder = HERE.parent / "examples" / "flower"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        return runpy.run_path(str(folder / "loopback.py"))


def test_a_real_federation_over_tls_survives_the_death_of_a_node_and_of_the_server(tmp_path, loopback, monkeypatch):
    """Three rounds, then a node and the server are gone and come back for a fourth: the engine memory's, to the bit."""
    for name, value in environment(tmp_path / "unused").items():
        monkeypatch.setenv(name, value)
    project, server = tmp_path / "project", tmp_path / "server"
    subprocess.run([sys.executable, "-m", "fewbits", "flower", "new", str(project)], check=True)
    config = {"clients": 2, "per_round": 2, "state": str(server), "timeout": 90.0}
    with loopback["Loopback"](tmp_path, 2) as real:
        real.run(project, 400, rounds=3, **config)
        assert theta(server, 3) == in_memory(3, summary(server))
        transport_is_as_documented(loopback["transport"], real.exchanges(), list(read(server / "ledger.jsonl")))

        loopback["end"](real.supernodes[1], at_once=True)  # SIGKILL, it and its children
        real.start_supernode(1)
        real.run(project, 400, rounds=4, **config)  # another ServerApp, which goes on after round 3
        assert theta(server, 4) == in_memory(4, summary(server))
    assert loopback["started_with"](real.environment["FLWR_HOME"]) == []


def transport_is_as_documented(transport, taps, entries) -> None:
    """What a client-round takes beyond its frame: within the bounds, and what docs/flower.md says within a tenth.

    How often a connection is opened anew depends on how long clients train; so the tenth is of the requests alone.
    """
    page = transport.documented(FLOWER)
    for way, bound in (("up", 12_000), ("down", 4_000)):
        found = transport.price(taps, entries, way)
        _, _, requests, _, overhead = page[f"fewbits, one transfer at a time, {way}"]
        assert len(found.requests) == 4  # rounds 2 and 3 of two clients
        assert median(found.requests) == pytest.approx(requests, rel=0.1)
        assert median(found.overhead) <= bound
        assert overhead <= bound


@pytest.mark.parametrize("how", ["one transfer at a time", "Flower's default"])
def test_the_documented_frames_are_those_of_the_same_run_in_memory(tmp_path, loopback, how):
    memory_of(5, tmp_path).run()
    transport, entries = loopback["transport"], list(read(tmp_path / "ledger.jsonl"))
    for way in transport.WAYS:
        frames = [round(transport.mean(entries, way, what)) for what in ("payload_bytes", "frame_bytes")]
        assert transport.documented(FLOWER)[f"fewbits, {how}, {way}"][:2] == frames


def memory_of(rounds: int, folder: Path | None = None) -> Federation:
    """The same run in the engine memory."""
    run = RunConfig(clients=2, method="lbgm+topk", rounds=rounds, lr=0.1, batch_size=20, epochs=2)
    digits = replace(build_task(run, load_data(run)), seed=None, build=None)  # Flower's server sends arrays, no seed
    return Federation(digits, run.build_method(), Schedule(rounds, processes=1), fewbits.Key(0), folder)


def in_memory(rounds: int, found: dict) -> bytes:
    """The model of the same run in the engine memory; its bytes must be what was found."""
    memory = memory_of(rounds)
    memory.run()
    assert found["frame_bytes"] == memory.ledger.frame_bytes
    assert found["notes"] == []
    return memory.server.flat.vector().numpy().tobytes()


def theta(server: Path, round: int) -> bytes:
    """The model in the server's checkpoint of a round."""
    return load_file(server / "checkpoints" / f"round-{round:08d}.safetensors")["theta"].numpy().tobytes()


def summary(server: Path) -> dict:
    return json.loads((server / "summary.json").read_text())
