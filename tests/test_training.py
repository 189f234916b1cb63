"""One call: text for methods, and what `out` holds afterwards."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

import fewbits as fb
from fewbits.cli.app import app
from fewbits.report import Record

TRAIN_LEAVES = {"checkpoints", "ledger.jsonl", "metrics.jsonl", "model.safetensors", "report.html", "states"}
TRAIN_LEAVES |= {"summary.json", "wire.json"}
GOSSIP_LEAVES = {"checkpoints", "ledger.jsonl", "metrics.jsonl", "model.safetensors", "nodes.safetensors"}
GOSSIP_LEAVES |= {"report.html", "summary.json"}


def linear():
    torch.manual_seed(0)
    return nn.Linear(20, 4)


def data(parts):
    torch.manual_seed(1)
    return [(x := torch.randn(30, 20), x[:, :4].argmax(1)) for _ in range(parts)]


def weights(result):
    return [x.tolist() for x in result.model.state_dict().values()]


def test_a_text_and_the_method_that_it_names_train_alike():
    text, value = (
        fb.federate(linear(), data(3), method, 2, seed=5)
        for method in ("topk@fraction=0.5", fb.methods.topk(fraction=0.5))
    )
    assert weights(text) == weights(value) != [x.tolist() for x in linear().state_dict().values()]


def test_seeds_differ():
    first, second = (fb.federate(linear(), data(4), "dense", 2, per_round=2, seed=seed) for seed in (0, 1))
    assert weights(first) != weights(second)


def test_a_gossip_method_may_be_text():
    runs = [
        fb.gossip(linear(), data(4), fb.topology.ring(4), method, 2)
        for method in ("choco@gamma=0.5", fb.learn.Choco(gamma=0.5))
    ]
    assert len({run.ledger.frame_bytes["up"] for run in runs}) == 1
    assert torch.equal(*(run.models for run in runs))


def test_text_of_the_other_kind_is_a_sentence():
    with pytest.raises(fb.LocalError, match="malcom"):
        fb.federate(linear(), data(2), "malcom", 1)
    with pytest.raises(fb.LocalError, match="lbgm"):
        fb.gossip(linear(), data(2), fb.topology.ring(2), "lbgm", 1)


def test_out_holds_what_the_command_leaves(tmp_path):
    result = fb.federate(linear(), data(3), "lbgm+topk", 2, test=data(1)[0], out=tmp_path / "run")
    found = {path.name for path in (tmp_path / "run").iterdir()}
    assert found >= TRAIN_LEAVES
    state = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(x, state[name]) for name, x in result.model.state_dict().items())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["up_frame_bytes"] == result.ledger.frame_bytes["up"]
    assert Record.read(tmp_path / "run", "lbgm+topk", 0).reports == tuple(result.reports)
    exported = CliRunner().invoke(app, ["export", str(tmp_path / "run")])
    assert exported.exit_code == 0, exported.output


def test_the_same_call_with_more_rounds_goes_on(tmp_path):
    long = fb.federate(linear(), data(3), "lbgm", 4, out=tmp_path / "long")
    fb.federate(linear(), data(3), "lbgm", 2, out=tmp_path / "parts")
    assert (tmp_path / "parts" / "summary.json").exists()
    parts = fb.federate(linear(), data(3), "lbgm", 4, out=tmp_path / "parts")
    assert weights(parts) == weights(long)
    assert [r.up_frame_bytes for r in parts.reports] == [r.up_frame_bytes for r in long.reports]
    assert json.loads((tmp_path / "parts" / "summary.json").read_text())["rounds"] == 4


def test_a_stopped_run_has_no_summary(tmp_path):
    fb.federate(linear(), data(3), "lbgm", 1, out=tmp_path)

    def stop(report):
        if report.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fb.federate(linear(), data(3), "lbgm", 4, out=tmp_path, watch=stop)
    assert not (tmp_path / "summary.json").exists()
    assert len(fb.federate(linear(), data(3), "lbgm", 4, out=tmp_path).reports) == 4


def test_gossip_leaves_models_and_a_page_and_goes_on(tmp_path):
    def trained(rounds, out):
        return fb.gossip(linear(), data(4), fb.topology.ring(4), "choco@gamma=0.5", rounds, inactive=0.3, out=out)

    whole = trained(4, tmp_path / "whole")
    trained(2, tmp_path / "parts")
    parts = trained(4, tmp_path / "parts")
    assert torch.equal(whole.models, parts.models)
    assert {path.name for path in (tmp_path / "parts").iterdir()} >= GOSSIP_LEAVES
    assert torch.equal(load_file(tmp_path / "parts" / "nodes.safetensors")["models"], parts.models)
    exported = CliRunner().invoke(app, ["export", str(tmp_path / "parts"), "--node", "3"])
    assert exported.exit_code == 0, exported.output


def test_another_seed_in_the_same_folder_is_refused(tmp_path):
    fb.federate(linear(), data(3), "dense", 1, out=tmp_path)
    with pytest.raises(fb.LocalError, match="its key"):
        fb.federate(linear(), data(3), "dense", 2, seed=1, out=tmp_path)
