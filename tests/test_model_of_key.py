"""A function of a key in place of a model: start weights travel as a seed, the same bytes wherever the run is made."""

import importlib
import json
import shlex
import sys

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import fewbits as fb
from fewbits.cli.app import app
from fewbits.engines.common.initial_model import InitialModel
from fewbits.links.ledger import read

TASK = """
import torch
from torch import nn

def of_key(key):
    return nn.Sequential(nn.Linear(5, 40), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3))

def of_nothing():
    return of_key(None)

def data():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(36, 5, generator=draw)
    y = x[:, :3].argmax(1)
    return [(x[i::3], y[i::3]) for i in range(3)], (x, y)
"""


@pytest.fixture
def task(tmp_path, monkeypatch):
    (tmp_path / "task_of_key.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "task_of_key", raising=False)
    return importlib.import_module("task_of_key")


def command(words):
    result = CliRunner().invoke(app, shlex.split(words), env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == 0, result.output
    return result.output


def train(model, task, method="topk@fraction=0.2", **options):
    clients, test = task.data()
    return fb.federate(model, clients, method, 3, test=test, **options)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def frames(folder):
    return [(e.round, e.client, e.direction, e.frame_bytes) for e in read(folder / "ledger.jsonl")]


@pytest.mark.parametrize("method", ["dense", "topk@fraction=0.2,down=delta8", "intrinsic@dim=20", "fedpara@gamma=0.3"])
def test_only_first_contact_is_shorter_than_with_the_module(task, tmp_path, method):
    module = InitialModel.of(task.of_nothing, fb.Key(0)).module
    one = train(module, task, method, out=tmp_path / "module")
    two = train(task.of_key, task, method, out=tmp_path / "key")
    assert torch.equal(weights(one.model), weights(two.model)) and one.accuracy == two.accuracy
    shorter = {
        (a[0], a[2]): a[3] - b[3] for a, b in zip(frames(tmp_path / "module"), frames(tmp_path / "key"), strict=True)
    }
    assert {what for what, less in shorter.items() if less} == {(1, "down")}
    assert shorter[1, "down"] > 1000  # four bytes a number, less the seed


def test_a_function_of_nothing_is_called_once_and_its_weights_travel(task, tmp_path):
    module = InitialModel.of(task.of_nothing, fb.Key(0)).module
    train(module, task, out=tmp_path / "module")
    train(task.of_nothing, task, out=tmp_path / "nothing")
    assert frames(tmp_path / "module") == frames(tmp_path / "nothing")


def test_the_bytes_are_the_same_on_processes_in_federate_in_compare_and_on_the_command_line(task, tmp_path):
    one = train(task.of_key, task, out=tmp_path / "one")
    clients, test = task.data()
    train(task.of_key, task, out=tmp_path / "two", processes=2)
    fb.compare(task.of_key, clients, "topk@fraction=0.2", seeds=[1, 0], rounds=3, test=test, out=tmp_path / "compared")
    own = "--model task_of_key:of_key --data task_of_key:data --rounds 3"
    command(f"train {own} --method topk@fraction=0.2 --out shell")
    command(f"compare {own} --methods few=topk@fraction=0.2 --seeds 0 --out shells")
    (found,) = {
        tuple(frames(folder))
        for folder in map(
            tmp_path.joinpath,
            ("one", "two", "compared/topk@fraction=0.2-seed0", "shell", "shells/few-seed0"),
        )
    }
    assert sum(entry[3] for entry in found) == one.bytes
    assert json.loads((tmp_path / "shell/summary.json").read_text())["accuracy"] == one.accuracy


def test_each_seed_of_a_comparison_has_weights_of_its_own(task):
    clients, test = task.data()
    found = fb.compare(task.of_key, clients, ["dense"], seeds=[0, 1], rounds=1, test=test)
    assert "Seeds decide the initial weights" in found.notes[0]
    one, two = (record.reports[0].loss for record in found.records)
    assert one != two == train(task.of_key, task, "dense", seed=1).reports[0].loss


def test_the_plan_knows_that_a_seed_travels(task, tmp_path):
    for model in (task.of_key, task.of_nothing):
        name = model.__name__
        command(f"plan --model task_of_key:{name} --method dense --clients 3 --rounds 3 --json {name}.json")
        (planned,) = json.loads((tmp_path / f"{name}.json").read_text())["methods"]
        run = train(model, task, "dense").ledger.frame_bytes
        assert (planned["up_total"], planned["down_total"]) == (run["up"], run["down"])


def test_the_export_loads_by_the_lines_printed(task, tmp_path):
    command("train --model task_of_key:of_key --data task_of_key:data --rounds 1 --out run")
    names = {}
    exec(command("export run --merged plain.safetensors").split("it loads by")[1], names)
    assert weights(names["model"]).isfinite().all()


def other_weights():
    draw = torch.Generator().manual_seed(1)

    def make(key):
        model = nn.Linear(5, 3)
        nn.init.normal_(model.bias, generator=draw)
        return model

    return make


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (other_weights(), "model make, called with a fb.Key: bias has other values when it is called again"),
        (lambda key: key, "called with a fb.Key: it must return a torch module; got Key"),
        (lambda: 3, "it must return a torch module; got int"),
        (lambda key: 1 / 0, "called with a fb.Key: it fails: ZeroDivisionError: division by zero"),
        (lambda x, y: nn.Linear(5, 3), "it fails: TypeError: "),
        ("mlp", "model must be a torch module; got str"),
    ],
)
def test_what_makes_no_model_is_a_sentence(task, tmp_path, model, sentence):
    with pytest.raises(fb.LocalError) as error:
        train(model, task, out=tmp_path / "run")
    assert sentence in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_function_that_gives_the_same_module_twice_is_refused(task):
    module, base = nn.Linear(5, 3), nn.Linear(5, 5).requires_grad_(False)
    with pytest.raises(fb.LocalError, match="weight is the same tensor when it is called again"):
        train(lambda key: module, task)
    train(lambda key: nn.Sequential(base, nn.Linear(5, 3)), task)  # frozen weights may be those of all calls
