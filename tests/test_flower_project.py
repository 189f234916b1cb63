"""`fewbits flower new`, and the project that it writes."""

import importlib
import sys
import tomllib

import pytest
from flwr.app import Context, RecordDict
from safetensors.torch import load_file
from typer.testing import CliRunner

import fewbits
from fewbits.cli.app import app as cli
from fewbits.cli.config import RunConfig
from fewbits.cli.prepared import build_task, load_data
from fewbits.engines.common import checkpoint
from fewbits.engines.simulation import Federation, Schedule
from fewbits.learn import shared_values
from flower_task import DirectGrid, Node

CLIENTS, ROUNDS = 4, 3


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A new project, importable."""
    folder = tmp_path / "project"
    assert CliRunner().invoke(cli, ["flower", "new", str(folder)]).exit_code == 0
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "digits_app"]:
        del sys.modules[name]


def config_of(project, **changes):
    found = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert set(changes) <= set(found)
    return found | changes


@pytest.mark.parametrize("method", ["lbgm+topk", "intrinsic", "fedpara+topk", "pfedpara"])
def test_a_new_project_trains_by_any_method_as_in_memory(project, tmp_path, method):
    config = config_of(project, method=method, clients=CLIENTS, rounds=ROUNDS, state=str(tmp_path / "server"))
    config |= {"per-round": 3, "fewbits-state": str(tmp_path / "clients")}
    client_app = importlib.import_module("digits_app.client_app").app
    server_app = importlib.import_module("digits_app.server_app").app
    nodes = {
        7 * c + 1: Node(client_app, Context(1, 7 * c + 1, {"partition-id": c}, RecordDict(), config))
        for c in range(CLIENTS)
    }
    server_app(DirectGrid(nodes), Context(1, 1, {}, RecordDict(), config))

    run = RunConfig(method=method, clients=CLIENTS, per_round=3, rounds=ROUNDS, batch_size=20, epochs=2, holdout=0.0)
    memory = Federation(
        build_task(run, load_data(run)), run.build_method(), Schedule(ROUNDS, 3, processes=1), fewbits.Key(0)
    )
    memory.run()
    folder = tmp_path / "server" / "checkpoints"
    assert checkpoint.rounds(folder)[-1] == ROUNDS
    theirs = shared_values.vector(shared_values.values(memory.server.flat))
    assert load_file(folder / f"round-{ROUNDS:08d}.safetensors")["theta"].numpy().tobytes() == theirs.numpy().tobytes()


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("precious")
    done = CliRunner().invoke(cli, ["flower", "new", str(tmp_path)])
    assert done.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
