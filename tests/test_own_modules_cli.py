"""Model, data, loss, metric and optimizer of the user's on the command line, by module:name."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import fewbits as fb
from commands import call
from fewbits.cli.diagnose import some
from fewbits.cli.named_object import named_model
from fewbits.cli.optimizer_text import optimizer
from fewbits.errors import LocalError

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "howto" / "own-modules-on-the-command-line.md"
TASK = """
import torch
from torch.utils.data import TensorDataset

WORDS = "no function"

def model():
    return torch.nn.Linear(4, 3)

def pairs():
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(40, 4, generator=draw)
    y = x[:, :3].argmax(1)
    return [(x[i::4], y[i::4]) for i in range(4)], (x, y)

def numbers():
    return [(x, y + 0.5) for x, y in pairs()[0]], pairs()[1]

def drawn():
    x = torch.randn(40, 4)
    return {"clients": [{"input": x[i::4], "y": x[i::4, :3].argmax(1)} for i in range(4)], "test": None}

def one(client):
    return pairs()[0][client]

def many():
    return {"clients": one, "population": 4, "test": pairs()[1]}

def misspelt():
    return {"clients": pairs()[0], "tset": None}

def nothing():
    return [torch.utils.data.DataLoader([])] * 2, None

def strange():
    return [{"pixels": torch.zeros(4, 4), "masks": torch.zeros(4), "y": torch.zeros(4).long()}] * 2, None

def each(output, y):
    return (output.argmax(1) == y).float()

def broken():
    raise OSError("no such disk")

def squares(output, y):
    return ((output - torch.nn.functional.one_hot(y, 3)) ** 2).mean()

def share(output, y):
    return (output.argmax(1) == y).float().mean()

def words(output, y):
    return "good"

def adam(parameters):
    return torch.optim.Adam(parameters, 0.05)

def private(parameters):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
"""
PRE = "own_task_of_a_user:"
OWN = "--model own_task_of_a_user:model --data own_task_of_a_user:pairs"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A directory of the user's with the module, in which the command is given."""
    (tmp_path / "own_task_of_a_user.py").write_text(TASK)
    (tmp_path / "ends_of_a_user.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_task_of_a_user", raising=False)
    return tmp_path


def weights(folder):
    return torch.cat([x.reshape(-1) for _, x in sorted(load_file(Path(folder) / "model.safetensors").items())])


def summary(folder):
    return json.loads((Path(folder) / "summary.json").read_text())


def test_a_run_of_the_command_is_the_run_of_federate(folder):
    call(f"train {OWN} --method topk@fraction=0.5 --rounds 3 --optimizer own_task_of_a_user:adam --out a")
    import own_task_of_a_user as task

    model = named_model("own_task_of_a_user:model", fb.Key(0).fold("model"))
    clients, test = task.pairs()
    local = fb.LocalTraining(task.adam)
    fb.federate(model, clients, "topk@fraction=0.5", 3, test=test, local=local, out="b")
    assert torch.equal(weights("a"), weights("b"))
    assert (folder / "a/ledger.jsonl").read_text() == (folder / "b/ledger.jsonl").read_text()
    assert json.loads((folder / "a/config.json").read_text())["clients"] == 4


def test_a_run_is_made_again_from_the_file_in_its_folder(folder):
    call(f"train {OWN} --rounds 2 --optimizer adam@lr=0.05 --loss {PRE}squares --out a")
    call(f"compare {OWN} --methods dense,few=topk@fraction=0.5 --rounds 2 --at 1kB --out b")
    call("run a/run.toml --out again")
    call("run b/few-seed0/run.toml --out few")
    assert torch.equal(weights("a"), weights("again")) and torch.equal(weights("b/few-seed0"), weights("few"))
    assert (folder / "a/run.toml").read_text() == (folder / "again/run.toml").read_text()


def test_loss_and_metric_are_the_users(folder):
    more = "--loss own_task_of_a_user:squares --metric own_task_of_a_user:share"
    call(f"train {OWN} {more} --rounds 2 --out a")
    assert summary("a")["metric_name"] == "share" and summary("a")["metric"] == pytest.approx(summary("a")["accuracy"])
    call(f"train {OWN} --rounds 2 --out b")
    assert not torch.equal(weights("a"), weights("b"))


@pytest.mark.parametrize("data", ["pairs", "drawn", "many"])
def test_a_run_goes_on_to_the_same_bytes_on_any_number_of_processes(data, folder):
    own = f"--model own_task_of_a_user:model --data own_task_of_a_user:{data} --optimizer adam@lr=0.05"
    call(f"train {own} --rounds 4 --processes 1 --out whole")
    call(f"train {own} --rounds 2 --out parts")
    call("train --resume parts --rounds 4")
    assert torch.equal(weights("whole"), weights("parts"))
    assert (folder / "whole/ledger.jsonl").read_text() == (folder / "parts/ledger.jsonl").read_text()


def test_methods_and_seeds_are_compared_on_own_data(folder):
    text = call(f"compare {OWN} --methods dense,fedper@private=bias --seeds 0,1 --rounds 2 --out c")
    assert "fedper leaves each client a model of its own" in text
    methods = ["dense", "fedper@private=bias"] * 2
    assert [row["method"] for row in json.loads((folder / "c/summary.json").read_text())] == methods
    page = (folder / "c/report.html").read_text()
    assert "own_task_of_a_user:pairs, 4 clients, all of them" in page and "split" not in page.split("Configuration")[1]


def test_an_own_model_trains_on_a_listed_data_set(folder):
    (folder / "own_net_of_a_user.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    call(
        "train --model own_net_of_a_user:net --clients 3 --rounds 1 --metric torch.nn.functional:cross_entropy --out a"
    )
    assert summary("a")["metric_name"] == "cross_entropy"
    assert "own_net_of_a_user:net, 650 parameters" in call("plan --model own_net_of_a_user:net --method dense")


MISTAKES = [
    ("--model nowhere_at_all:model", "--model nowhere_at_all:model: there is no module 'nowhere_at_all' in "),
    (f"--model {PRE}modle", f"--model {PRE}modle: own_task_of_a_user has no 'modle'; did you mean 'model'?"),
    (f"--model {PRE}WORDS", "must be a function that makes a torch module; got str"),
    (f"--model {PRE}pairs", "it must return a torch module; got"),
    (f"--data {PRE}broken", f"--data {PRE}broken: it fails: OSError: no such disk"),
    (f"--data {PRE}model", "it must return (clients, test), or a dict with the keys"),
    (f"--data {PRE}misspelt", "unknown key 'tset'; did you mean 'test'?"),
    (f"--data {PRE}pairs --split iid", f"--split has no meaning with --data {PRE}pairs"),
    (f"--data {PRE}pairs --clients 4", "--clients has no meaning with --data"),
    (f"--data {PRE}pairs --model mlp", "model mlp is built for the shape of a listed data set"),
    (f"--loss {PRE}WORDS", "--loss own_task_of_a_user:WORDS: it must be a function of (output, y); got str"),
    (f"--metric {PRE}words", "metric words"),
    (f"--metric {PRE}each", "metric each"),
    (f"--data {PRE}nothing", "client 0"),
    (f"--data {PRE}strange", "the model's forward takes 'input', and the batch has 'pixels', 'masks'"),
    ("--log nowhere", "nowhere"),
    ("--model ends_of_a_user:model", "importing ends_of_a_user fails: SystemExit: 3"),
    ("--optimizer adamv@lr=1", "unknown optimizer 'adamv'; did you mean 'adam"),
    ("--optimizer adam@rate=1", "--optimizer adam@rate=1: unknown option 'rate'"),
    ("--optimizer adam@lr=fast", "--optimizer adam@lr=fast: it fails: "),
    (f"--optimizer {PRE}private", "no trained parameters of the model"),
    (f"--optimizer {PRE}adam --lr 0.1", "--lr has no meaning with --optimizer"),
    ("--per-round 9", "per_round is 9, but there are 4 clients"),
    (f"--method auto --budget 2MB --optimizer {PRE}adam", "leave out --optimizer"),
]


@pytest.mark.parametrize(("words", "sentence"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_mistake_is_one_sentence_before_a_folder_is_made(words, sentence, folder):
    given = words if "--data " in words else f"{words} --data {PRE}pairs"
    given = given if "--model " in words else f"{given} --model {PRE}model"
    text = call(f"train {given} --rounds 1 --out a", code=2)
    assert sentence in text and len(text.strip().splitlines()) == 1
    assert not (folder / "a").exists()


def test_a_command_for_listed_names_says_so():
    for words in ("--model own:x", "--nodes 4 --data own:x"):
        assert "takes a listed --" in call(f"gossip {words} --out g", code=2)
    for words in call("gossip --help"), call("diagnose --help"):
        assert ("module:function" in words) == ("diagnose" in words)


def test_a_diagnosis_takes_a_model_and_data_of_the_users(folder):
    """From a spread of all clients' rows; its commands have both, and play."""
    words = call(f"diagnose {OWN} --epochs 2 --blocks 1 --dims 4 --limit 20 --batch-size 5 --out d")
    assert f"--data {PRE}pairs --model {PRE}model" in words
    assert json.loads((folder / "d" / "diagnose.json").read_text())["diagnosis"]["parameters"] == 15
    assert some(torch.arange(10), 4).tolist() == [0, 2, 5, 7] and some(torch.arange(3), 4).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("data", "sentence"), [("drawn", "takes an (x, y) pair"), ("numbers", "has numbers to predict")]
)
def test_a_diagnosis_of_other_data_is_refused(data, sentence, folder):
    text = call(f"diagnose --model {PRE}model --data {PRE}{data} --out d", code=2)
    assert sentence in text and not (folder / "d").exists()


def test_an_optimizer_in_short_is_that_of_torch():
    made = optimizer("AdamW@lr=0.01,betas=(0.8,0.9),amsgrad=true")([torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(made, torch.optim.AdamW)
    assert {name: made.defaults[name] for name in ("lr", "betas", "amsgrad")} == {
        "lr": 0.01,
        "betas": (0.8, 0.9),
        "amsgrad": True,
    }
    with pytest.raises(LocalError, match="unknown optimizer"):
        optimizer("adamax2")


def test_lora_is_federated_by_the_command_in_fifteen_lines(folder, monkeypatch):
    pytest.importorskip("peft")
    source = (ROOT / "examples/lora_command.py").read_text()
    code = [line for line in source.split('"""')[2].splitlines() if line.strip()]
    assert len(code) <= 15
    (command,) = re.findall(r"fewbits (train .*)", source)
    monkeypatch.chdir(ROOT / "examples")
    call(command.replace("runs/lora", str(folder / "lora")) + " --rounds 2 --processes 1")
    config = json.loads((folder / "lora/config.json").read_text())
    assert (config["clients"], config["model"]) == (8, "lora_command:model")
    first, last = [json.loads(line) for line in (folder / "lora/metrics.jsonl").read_text().splitlines()]
    assert last["loss"] < first["loss"]
    assert first["up_payload_bytes"] == 8 * 4 * 2 * 4 * (32 + 96)  # rank 4 in two layers of 32 x 96, as float32


def test_the_commands_of_the_page_run(folder):
    blocks = dict(re.findall(r"```(python|sh)\n(.*?)```", PAGE.read_text(), re.DOTALL))
    (folder / "task.py").write_text(blocks["python"])
    sys.modules.pop("task", None)
    for line in blocks["sh"].replace("\\\n", " ").splitlines():
        call(line.removeprefix("fewbits "))
    sys.modules.pop("task", None)
