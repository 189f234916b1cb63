"""`fewbits export --merged`: the plain module has the accuracy that the run said, and loads by the lines printed."""

import json
import sys

import pytest
import torch

from fewbits import data
from fewbits.cli.config import RunConfig
from fewbits.cli.prepared import load_data, prepare
from test_cli import call

RUN = ["--data", "digits", "--clients", "4", "--rounds", "2", "--lr", "0.3", "--processes", "1"]
NET = """
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Linear(32, 10))

def factored():
    import fewbits
    return fewbits.fedpara(net(), gamma=0.3)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "net_of_a_user", raising=False)
    (tmp_path / "net_of_a_user.py").write_text(NET)
    return tmp_path


def exported(*more):
    """The module that the printed lines load."""
    printed = call("export", "run", "--merged", "plain.safetensors", *more)
    names = {}
    exec(printed.split("it loads by")[1], names)
    return names["model"].eval()


def right(model, x, y):
    with torch.no_grad():
        return float((model(x).argmax(1) == y).double().mean())


def said(folder):
    return json.loads((folder / "run/summary.json").read_text())["accuracy"]


@pytest.mark.parametrize(
    ("method", "model"),
    [
        ("dense", "mlp"),
        ("fedpara+topk@fraction=0.3", "mlp"),
        ("lowrank", "mlp"),
        ("intrinsic@dim=200", "mlp"),
        ("intrinsic@dim=200,local=outside", "mlp"),
        ("intrinsic@dim=200,mode=k-subspace,epoch=1", "mlp"),
        ("intrinsic+deadzone@dim=200,bits=2", "mlp"),
        ("fedpara@gamma=0.3", "net_of_a_user:net"),
        ("topk", "net_of_a_user:factored"),
        ("intrinsic+dense@dim=100", "net_of_a_user:net"),
    ],
)
def test_the_public_model_is_plain_and_as_good_as_the_run_said(folder, method, model):
    call("train", "--method", method, "--model", model, *RUN, "--out", "run")
    found, loaded = data.load("digits"), exported()
    assert right(loaded, found.test_x, found.test_y) == pytest.approx(said(folder), abs=1e-12)
    assert not any("parametrizations" in name or "coordinates" in name for name in loaded.state_dict())


@pytest.mark.parametrize("method", ["pfedpara@gamma=0.3", "fedper", "local"])
def test_the_clients_models_are_as_good_as_the_run_said(folder, method):
    call("train", "--method", method, *RUN, "--holdout", "0.3", "--split", "classes:3", "--out", "run")
    config = RunConfig.read(folder / "run")
    task = prepare(config, load_data(config)).task
    x, y = task.pairs
    found = [
        right(exported("--client", str(client)), x[rows], y[rows])
        for client, rows in enumerate(map(torch.as_tensor, task.holdout))
    ]
    assert sum(found) / len(found) == pytest.approx(said(folder), abs=1e-12)
    assert len(set(found)) > 1


def test_what_cannot_be_merged_is_a_sentence(folder):
    target = ["--merged", "plain.safetensors"]
    assert "there is no folder run" in call("export", "run", *target, code=2)
    call("train", *RUN, "--out", "run")
    assert "has one model for all clients" in call("export", "run", *target, "--client", "1", code=2)
    assert "give --merged or --out, not both" in call("export", "run", *target, "--out", "x", code=2)
    assert "--client goes with --merged" in call("export", "run", "--client", "1", code=2)
    (folder / "run/summary.json").unlink()
    call("train", "--method", "local", *RUN, "--out", "own")
    assert "give --client, one of 0..3" in call("export", "own", *target, code=2)
    assert "client 4" in call("export", "own", *target, "--client", "4", code=2)
    call("gossip", "--nodes", "4", "--rounds", "1", "--steps", "1", "--methods", "choco", "--out", "graph")
    assert "is a run without a server" in call("export", "graph/choco-seed0", *target, code=2)
    assert not (folder / "plain.safetensors").exists()
