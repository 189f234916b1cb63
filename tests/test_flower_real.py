"""Flower itself: its simulation, and a SuperLink with two SuperNodes over TLS. Processes, free ports, no network."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from safetensors.torch import load_file

import faults
import fewbits
import loopback
import storm
import transport
from digits_task import federation, model_bytes, task
from fewbits import methods
from fewbits.cli.config import RunConfig
from fewbits.cli.prepared import build_task, load_data
from fewbits.engines.simulation import Federation, Schedule
from fewbits.links.ledger import read

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs" / "flower.md"
METHOD = "lbgm+topk"
REFUSALS = {  # by the log in which it stands
    "misled": "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer certificate",
    "stranger": "[code: 2004] Failed to activate SuperNode.",
    "superlink": "No SuperNode found with the given public key.",
}
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


def test_a_real_federation_over_tls_survives_deaths_within_a_turn_and_within_a_round(tmp_path, monkeypatch):
    """While both clients are in their turns of round 4, the ServerApp gets SIGKILL, and so does a SuperNode with its
    app. Both come back, the round is played once more: the model and the frames are the engine memory's, to the bit.
    """
    for name, value in environment(tmp_path / "unused").items():
        monkeypatch.setenv(name, value)
    project, server = storm.project(tmp_path / "project"), tmp_path / "server"
    plan = storm.Plan(*(str(tmp_path / "storm"), str(server / "metrics.jsonl")), percent=0, death=(4, 1), crash=(4, 0))
    config = {"clients": 2, "per_round": 2, "state": str(server), "timeout": 300.0}
    with storm.Storm(tmp_path, 2, plan) as real:
        run = real.begin(project, rounds=4, **config)
        marks = ("in-the-turn", "in-the-round")
        faults.wait(lambda: run.poll() is not None or all(map(plan.marked, marks)), "round 4")
        assert run.poll() is None, real.log("run")
        exchanges, entries = real.exchanges(), list(read(server / "ledger.jsonl"))
        real.kill_server()
        loopback.end(run)
        real.kill_node(1)
        assert plan.closed() == 3
        real.run(project, 600, rounds=4, **config)
        assert theta(server, 4) == in_memory(4, summary(server))
    assert loopback.started_with(real.environment["FLWR_HOME"]) == []
    ends = storm.both_ends(server, tmp_path, 2, METHOD, 0)
    assert [each.newest for each in ends] == [each.server for each in ends]
    transport_is_as_documented(exchanges, entries)


def test_a_supernode_with_another_authority_or_an_unknown_key_is_refused_in_words(tmp_path, monkeypatch):
    """Flower's own handshake, as docs/flower.md quotes it: an upgrade that says something else must not pass unseen."""
    for name, value in environment(tmp_path / "unused").items():
        monkeypatch.setenv(name, value)
    other = tmp_path / "other"
    other.mkdir()
    with loopback.Loopback(tmp_path, 0) as real:
        loopback.make_node_key(tmp_path / "client_0")
        real.taps.append(loopback.Tap(real.port, real.certificate, real.key, real.ca))
        stranger = real.launch(0, "stranger")
        real.ca = loopback.make_certificates(other)[2]
        misled = real.launch(0, "misled")
        assert [misled.wait(100), stranger.wait(100)] == [1, 1]
        for name, words in REFUSALS.items():
            assert words in real.log(name), real.log(name)
            assert words in DOCS.read_text()


def transport_is_as_documented(taps, entries) -> None:
    """What a client-round takes beyond its frame: within the bounds, and what docs/flower.md says within a tenth.

    How often a connection is opened anew depends on how long clients train, so one handshake is counted.
    """
    page = transport.documented(DOCS)
    closed = [exchanges[: exchanges.index(transport.turns(exchanges)[-1][0])] for exchanges in taps]
    for way, bound in (("up", 12_000), ("down", 4_000)):
        found = transport.price(closed, entries, way)
        _, _, requests, _, overhead = page[f"fewbits, one transfer at a time, {way}"]
        assert len(found.requests) == 4  # rounds 2 and 3 of two clients
        assert median(found.requests) == pytest.approx(requests, rel=0.1)
        assert median(found.requests) + min(filter(None, found.opening), default=0) <= bound
        assert overhead <= bound


@pytest.mark.parametrize("how", ["one transfer at a time", "Flower's default"])
def test_the_documented_frames_are_those_of_the_same_run_in_memory(tmp_path, how):
    memory_of(5, tmp_path).run()
    entries = list(read(tmp_path / "ledger.jsonl"))
    for way in transport.WAYS:
        frames = [round(transport.mean(entries, way, what)) for what in ("payload_bytes", "frame_bytes")]
        assert transport.documented(DOCS)[f"fewbits, {how}, {way}"][:2] == frames


def memory_of(rounds: int, folder: Path | None = None) -> Federation:
    """The same run in the engine memory."""
    run = RunConfig(clients=2, method=METHOD, rounds=rounds, lr=0.1, batch_size=20, epochs=2)
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
