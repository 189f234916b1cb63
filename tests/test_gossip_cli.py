"""`fewbits gossip`, on digits and for a few rounds."""

import json

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from fewbits.cli.app import app
from fewbits.cli.gossip.config import GossipComparison, GossipConfig
from fewbits.cli.gossip.play import build_task
from fewbits.data import load
from fewbits.engines.gossip import GossipRun
from fewbits.errors import LocalError
from fewbits.learn.gossip import Malcom
from fewbits.links import ledger
from fewbits.methods.gossip import GOSSIP, build, gossip_method, options
from fewbits.report.gossip import GossipRecord, rows
from fewbits.rng import Key
from web_page import Outside

SMALL = ["--nodes", "4", "--topology", "ring", "--rounds", "4", "--evaluate-every", "2", "--processes", "1"]


def call(*arguments, code=0):
    """The command's output, stdout and stderr."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """(folder, output) of a comparison of three methods with inactive nodes."""
    folder = tmp_path_factory.mktemp("gossip") / "run"
    extra = ["--set", "malcom.mu=1e-3", "--set", "choco.coder=fixed", "--inactive", "0.2", "--target-accuracy", "0.05"]
    return folder, call("gossip", "--methods", "dsgd,choco,malcom", *SMALL, *extra, "--out", folder)


def test_methods_are_compared_by_the_ledgers_bytes(compared):
    folder, printed = compared
    found = json.loads((folder / "summary.json").read_text())
    assert [one["method"] for one in found] == ["dsgd", "choco", "malcom"]
    for one in found:
        entries = list(ledger.read(folder / f"{one['method']}-seed0" / "ledger.jsonl"))
        assert one["frame_bytes"] == sum(e.frame_bytes for e in entries if e.direction == "up")
        assert one["link_bytes"] == sum(e.frame_bytes for e in entries if e.direction == "down")
        assert sum(one["bytes_per_node"]) == one["frame_bytes"] and len(one["bytes_per_node"]) == 4
        assert one["bytes_to_target"] <= one["frame_bytes"]
    assert found[0]["times_fewer"] == 1.0 < found[2]["times_fewer"]
    assert "malcom" in printed and "report.html" in printed


def test_choco_with_fixed_width_levels_costs_what_papers_count(compared):
    folder, _ = compared
    sent = [e for e in ledger.read(folder / "choco-seed0" / "ledger.jsonl") if e.direction == "up"]
    assert {e.stages["Fixed"] for e in sent} == {4 * 9610}  # bits of the mlp's parameters on digits


def test_the_page_and_the_picture_are_complete(compared):
    folder, _ = compared
    text, page = (folder / "report.html").read_text(), Outside()
    page.feed(text)
    assert page.fetched == [] and page.tags.count("table") == 3
    for text_part in ("malcom", "predicted MB", "entropy MB", "spectral gap", "data:image/png;base64,"):
        assert text_part in text
    assert (folder / "gossip.png").read_bytes().startswith(b"\x89PNG")


def test_the_saved_models_can_be_loaded(compared):
    folder, _ = compared
    models = load_file(folder / "malcom-seed0" / "nodes.safetensors")["models"]
    assert models.shape == (4, 9610)
    assert sum(x.numel() for x in load_file(folder / "malcom-seed0" / "model.safetensors").values()) == 9610


def test_the_command_gives_the_bytes_of_the_engine(compared):
    folder, _ = compared
    config = GossipConfig.read(folder / "malcom-seed0")
    run = GossipRun(
        build_task(config, load("digits")), config.gossip_method(), config.network(), config.schedule(), Key(0)
    )
    models = load_file(folder / "malcom-seed0" / "nodes.safetensors")["models"]
    assert run.run().models.equal(models)


def test_an_extended_comparison_does_not_repeat_finished_runs(compared):
    folder, printed = compared
    before = (folder / "dsgd-seed0" / "metrics.jsonl").read_bytes()
    again = call("gossip", "--resume", folder)
    assert (folder / "dsgd-seed0" / "metrics.jsonl").read_bytes() == before
    assert again.splitlines()[-3:] == printed.splitlines()[-3:]
    call("gossip", "--resume", folder, "--rounds", "5")
    assert len((folder / "dsgd-seed0" / "metrics.jsonl").read_text().splitlines()) == 5
    assert GossipComparison.read(folder).base.rounds == 5


def test_means_over_seeds_stand_in_one_row(tmp_path):
    call("gossip", "--method", "dsgd", "--seeds", "0,1", *SMALL, "--out", tmp_path / "run")
    records = [GossipRecord.read(tmp_path / "run" / f"dsgd-seed{seed}", "dsgd", seed) for seed in (0, 1)]
    (row,) = rows(records)
    mean = (records[0].last.accuracy + records[1].last.accuracy) / 2
    assert row["accuracy"].startswith(f"{mean:.2%} ± ")


@pytest.mark.parametrize("name", GOSSIP)
def test_every_method_is_built_from_text(name):
    known = options(name)
    built = build(name, {key: str(value) for key, value in known.items()})
    assert built == build(name) == GOSSIP[name]()
    assert build(name, {"gamma": "0.25"}).gamma == 0.25


def test_malcoms_options_reach_the_method():
    method = build("malcom", {"bits": "3", "mu": "1e-4", "groups": "true", "coder": "rans", "gamma": "auto"})
    assert isinstance(method, Malcom)
    assert repr(method.codec) == "flat(chain(Quantize(bits=3), Rans()))"
    assert repr(method.regulariser) == "GroupL1(mu=0.0001)" and method.gamma == "auto"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "fedavg"], "choose one of dsgd, choco, malcom, deepsqueeze"),
        (["--set", "mu=-1"], "mu must be a finite number, 0 or more; got -1.0"),
        (["--set", "gamma=-0.5"], "gamma must be a number in (0, 1]"),
        (["--set", "speed=2"], "has an option 'speed'"),
        (["--set", "coder=morse"], "coder must be one of golomb"),
        (["--topology", "knot"], "unknown topology 'knot'"),
        (["--nodes", "1"], "2 nodes or more"),
        (["--inactive", "1"], "in [0, 1); got 1.0"),
        (["--weights", "best"], "weights must be one of"),
        (["--seeds", "x"], "whole numbers"),
    ],
)
def test_mistakes_are_reported_before_a_folder_exists(tmp_path, arguments, message):
    printed = call("gossip", *SMALL, *arguments, "--out", tmp_path / "run", code=2)
    assert message in printed
    assert not (tmp_path / "run").exists()


def test_a_folder_is_required_and_never_overwritten(compared):
    assert "give --out" in call("gossip", *SMALL, code=2)
    folder, _ = compared
    assert "fewbits gossip --resume" in call("gossip", *SMALL, "--out", folder, code=2)
    assert "cannot be changed" in call("gossip", "--resume", folder, "--nodes", "5", code=2)
    assert "not shorten" in call("gossip", "--resume", folder, "--rounds", "1", code=2)


def test_options_of_runs_with_a_server_are_errors():
    with pytest.raises(LocalError, match="has no per_round"):
        GossipConfig(per_round=2)
    with pytest.raises(LocalError, match="needs a server; play it with"):
        GossipConfig(method="lbgm")


@pytest.mark.parametrize("name", GOSSIP)
def test_a_method_as_text_equals_the_method(name):
    assert gossip_method(name) == gossip_method(GOSSIP[name]()) == GOSSIP[name]()
    assert gossip_method(f"{name}@gamma=0.25, momentum=0.5") == GOSSIP[name](gamma=0.25, momentum=0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lbgm", "needs a server; play it with fb.federate or fewbits train"),
        ("malcom@speed=2", "has no option 'speed'"),
        ("malcom@mu", "NAME@option=value"),
        ("malcom@", "NAME@option=value"),
        ("malcom@mu=1,mu=2", "each once"),
        ("malcom@bits=x", "option bits must be int"),
    ],
)
def test_a_wrong_method_text_is_an_error(text, message):
    with pytest.raises(LocalError, match=message):
        gossip_method(text)
