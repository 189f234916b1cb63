"""A plan is what a run then sends: to the byte where lengths do not depend on the data, nearly where they do."""

import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from digits_task import KEY, federation, filled, mlp, task
from fewbits import codecs
from fewbits.analysis.forecast import Link, forecast, frames
from fewbits.analysis.forecast.downlink import Entries, Epochs, Whole, downlink
from fewbits.cli.app import app
from fewbits.cli.plan_model import plan_model, read_shapes
from fewbits.coders import Fixed
from fewbits.data import NAMES, data_info, load
from fewbits.errors import LocalError
from fewbits.learn.intrinsic_space import IntrinsicSpace
from fewbits.links import Broadcast
from fewbits.links.bundle import pack, wrap, wrapped_bytes
from fewbits.links.epochs import EpochBroadcast
from fewbits.methods import build
from fewbits.models.build import MODELS
from fewbits.models.shapes import MOST, of_shapes
from fewbits.report.forecast import terminal
from fewbits.rng import Key
from fewbits.spec import Spec

EXACT = {
    "dense": {},
    "dense, fp16 down": {"down": "fp16"},
    "fedpaq": {},
    "fedpaq, fp16": {"bits": "16"},
    "fedprox": {},
    "scaffold": {},
    "feddyn": {},
    "fedadam": {},
    "fedper": {},
    "local": {},
    "fedpara": {"gamma": "0.3"},
    "lowrank": {},
    "pfedpara": {},
    "fedpara+fedpaq": {},
    "dp+dense": {},
    "masked": {"bits": "20"},
    "dp+masked+intrinsic": {"dim": "32", "mode": "time-varying", "share": "central"},
    "signsgd": {"down": "dense"},
    "eden": {"down": "dense"},
    "powersgd": {"down": "dense"},
    "intrinsic": {"dim": "32"},
    "intrinsic, with fp16 down": {"dim": "32", "down": "fp16"},
    "intrinsic, k-subspace": {"dim": "32", "mode": "k-subspace", "k": "3"},
    **{
        f"intrinsic, {mode}, inside": {"dim": "32", "mode": mode, "k": "3", "epoch": "2"}
        for mode in ("time-varying", "growing")
    },
    "intrinsic+fedpaq, growing": {"dim": "32", "mode": "growing", "k": "3", "epoch": "1"},
    "dp+intrinsic, growing": {"dim": "32", "mode": "growing", "k": "3", "epoch": "1"},
    **{
        f"intrinsic, {mode}, outside": {"dim": "32", "mode": mode, "k": "3", "epoch": "2", "local": "outside"}
        for mode in ("static", "k-subspace")
    },
    # theta is sent when finals add up
    "intrinsic, outside": {"dim": "300", "mode": "time-varying", "epoch": "1", "local": "outside"},
    "intrinsic+fedpaq": {"dim": "32", "mode": "time-varying", "epoch": "2", "local": "outside"},
}


def planned(name, settings, rounds=6, model=mlp, per_round=3):
    return forecast(model, build(name.partition(",")[0], settings), 6, per_round, rounds, KEY)


def played(name, settings, rounds=6, per_round=3, **more):
    run = federation(build(name.partition(",")[0], settings), rounds=rounds, per_round=per_round, **more)
    run.run()
    return run.ledger.frame_bytes["up"], run.ledger.frame_bytes["down"]


@pytest.mark.parametrize("per_round", [2, 6])
@pytest.mark.parametrize("name", EXACT)
def test_a_plan_that_holds_for_any_update_is_what_a_run_sends_to_the_byte(name, per_round):
    (line,) = planned(name, EXACT[name], per_round=per_round)
    assert line.basis == "any update"
    assert (line.up_total, line.down_total) == played(name, EXACT[name], per_round=per_round)
    drawn = "central" in EXACT[name].values() and per_round < 6  # by coins
    assert (line.contacts == 6 * per_round or drawn) and line.up * line.contacts == line.up_total


def normed():
    return filled(nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10)))


WITH_BUFFERS = [
    ("fedpaq", {}),
    ("dense", {"down": "fp16"}),
    ("masked", {}),
    ("masked", {"bits": "19"}),
    ("intrinsic", {"dim": "32"}),
]


@pytest.mark.parametrize("per_round", [2, 3])
@pytest.mark.parametrize(("name", "settings"), WITH_BUFFERS)
def test_buffers_are_in_a_plan(name, settings, per_round):
    (line,) = planned(name, settings, model=normed, per_round=per_round)
    assert (line.up_total, line.down_total) == played(name, settings, per_round=per_round, task=task(model=normed))


@pytest.mark.parametrize(
    "name", ["topk", "randk", "signsgd", "topk+delta4", "intrinsic+topk", "fedpara+topk", "masked+delta4"]
)
def test_a_plan_measured_on_random_updates_is_near_what_a_run_sends(name):
    """Within 5% up, 10% down; Gaussian updates have no small tensors with large entries, as real ones do."""
    settings = {"dim": "256"} if "intrinsic" in name else {"down": "delta4"} if "delta4" in name else {}
    name = name.removesuffix("+delta4")
    (line,) = planned(name, settings)
    up, down = played(name, settings)
    assert line.basis == "random update"
    assert line.up_total == pytest.approx(up, rel=0.05)
    assert line.down_total == pytest.approx(down, rel=0.1)


@pytest.mark.parametrize(("threshold", "case"), [("0", "all in full"), ("1", "all recycled")])
def test_a_method_that_recycles_has_both_ends_of_what_it_may_send(threshold, case):
    lines = {line.case: line for line in planned("lbgm", {"threshold": "0.2"})}
    assert lines.keys() == {"all in full", "all recycled"} and {line.basis for line in lines.values()} == {"bound"}
    assert (lines[case].up_total, lines[case].down_total) == played("lbgm", {"threshold": threshold})
    up, _ = played("lbgm", {"threshold": "0.4"})
    assert lines["all recycled"].up_total < up < lines["all in full"].up_total


@pytest.mark.parametrize("name", ["lbgm+topk", "lbgm+sign", "predict", "intrinsic+lbgm"])
def test_whatever_recycles_is_planned_in_full_and_recycled(name):
    full, recycled = planned(name, {"dim": "64"} if "intrinsic" in name else {})
    assert recycled.up_later < 40 < full.up_later and recycled.up_first == full.up_first
    assert full.server_keeps > 50


def test_what_is_kept_for_a_client_is_what_its_ends_take_on_disk():
    lbgm, _ = planned("lbgm", {})
    assert lbgm.server_keeps > 4 * lbgm.numbers and lbgm.client_keeps > 4 * lbgm.numbers
    (topk,) = planned("topk", {})
    assert topk.server_keeps == 16 and topk.client_keeps > 4 * topk.numbers, "a residual is the client's alone"
    (own,) = planned("local", {})
    assert own.client_keeps == 16 + 4 * sum(p.numel() for p in mlp().parameters())


@pytest.mark.parametrize(("name", "down"), [("topk", "delta8"), ("scaffold", "delta4")])
def test_a_model_too_large_for_a_round_of_updates_is_planned_by_a_smaller_one(name, down, monkeypatch):
    def plan():
        return forecast(lambda: of_shapes({"a.b": (60_000,)}), build(name, {"down": down}), 9, 5, 7, KEY)[0]

    whole = plan()
    monkeypatch.setattr(frames, "NUMBERS", 2**17)
    small = plan()
    assert small.up_total == pytest.approx(whole.up_total, rel=0.01)
    assert small.down_total == pytest.approx(whole.down_total, rel=0.03) and small.down_total != whole.down_total


# what a client gets that was away


def test_the_length_of_a_bundle_is_that_of_its_frames_packed():
    assert wrapped_bytes([]) == len(wrap([], 1))
    for lengths in ([16], [16, 127, 128], [2**14, 2**14 - 1] * 100):
        assert wrapped_bytes(lengths) == len(pack([bytes(n) for n in lengths]))


def test_entries_missed_or_a_snapshot_as_the_broadcast_does():
    server = Broadcast(codecs.Delta(codecs.chain(codecs.Quantize(bits=8), Fixed())), Spec((60,)), Key(0), keep=3)
    for version in range(1, 9):
        server.publish(torch.randn(60, generator=Key(version).generator()))
    rule = downlink(server, None)
    assert isinstance(rule, Entries) and not rule.exact
    for before in (None, *range(1, 8)):
        assert rule.frames(before, 8) == list(map(len, server.frames(before)))
        assert rule.bundle(before, 8) == len(server.bundle(before))


@pytest.mark.parametrize("keep", [2, 100])
def test_finals_missed_or_the_whole_model_as_the_broadcast_does(keep):
    space = IntrinsicSpace(8, "time-varying", epoch=3)
    server = EpochBroadcast(space, Spec((90,)), Key(0), keep)
    server.publish({"theta_e": torch.zeros(90)})
    seen = set()
    for version in range(1, 41):
        rule = downlink(server, space)
        assert isinstance(rule, Epochs)
        for before in (None, *range(1, version)):
            assert rule.frames(before, version) == list(map(len, server.frames(before)))
            seen.add(tuple(rule.frames(before, version)))
        server.publish({"s": torch.ones(8)})
    assert {frames[0] for frames in seen} == {rule.s, rule.whole} and len(seen) == 2 + min(keep, 7)


def test_a_stateless_downlink_is_the_whole_model():
    server = Broadcast(codecs.Raw(), Spec((60,)), Key(0))
    server.publish(torch.ones(60))
    rule = downlink(server, None)
    assert isinstance(rule, Whole) and rule.frames(1, 5) == rule.frames(None, 1) == [256]


def test_a_line_of_so_many_megabits_takes_so_long():
    assert Link(10, 50).seconds(1_250_000, 0) == pytest.approx(1.0)
    assert Link(10, 50).seconds(0, 1_250_000) == pytest.approx(0.2)


# models and data that are not here


@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_has_a_static_description(name):
    found = data_info(name)
    assert found.classes >= 10 and len(found.shape) in (1, 3) and found.source
    if name == "digits":
        data = load(name)
        assert (found.shape, found.classes) == (data.shape, data.classes)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_the_examples_of_its_default_data(name):
    make, what = plan_model(name, None, None, None, KEY)
    assert what.startswith(f"{name} on {MODELS[name].data}, ")
    assert sum(p.numel() for p in make().parameters()) > 0


def test_shapes_make_a_model_with_layers_that_can_be_factored():
    plain = nn.Sequential(nn.Conv2d(3, 40, 3), nn.Flatten(), nn.Linear(40, 30, bias=False), nn.LayerNorm(30))
    shapes = {name: tuple(p.shape) for name, p in plain.named_parameters()}
    found = of_shapes(shapes)
    assert {name: tuple(p.shape) for name, p in found.named_parameters()} == shapes
    dims = {"gamma": "0.2"}
    (line,), (again,) = (planned("fedpara", dims, model=make) for make in (lambda: of_shapes(shapes), lambda: plain))
    assert line == again and line.numbers < sum(p.numel() for p in found.parameters())


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({}, r"expected 1 to 2,000,000,000 parameters; got 0"),
        ({"a": [MOST + 1]}, "got 2,000,000,001"),
        ({"a.weight": "64"}, r"lists of sizes, such as .*; got 'a.weight': '64'"),
        ({"a.weight": [0, 3]}, "lists of sizes"),
        ({"a..weight": [3, 3]}, "lists of sizes"),
        ({"parameters": [3]}, "torch refuses the names below ''"),
    ],
)
def test_what_is_no_shape_gets_a_sentence(shapes, said):
    with pytest.raises(LocalError, match=said):
        of_shapes(shapes)


# the command


def call(*arguments, code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "160", "NO_COLOR": "1"})
    assert result.exit_code == code, result.output
    return result.output


TASK = ["--clients", 5, "--per-round", 2, "--rounds", 3, "--seed", 4]


def test_the_command_says_what_train_then_sends(tmp_path):
    text = call("plan", *TASK, "--method", "dense,fedpaq", "--method", "intrinsic", "--set", "intrinsic.dim=128",
                "--set", "down=fp16", "--json", tmp_path / "plan.json")  # fmt: skip
    found = json.loads((tmp_path / "plan.json").read_text())
    lines = {line["method"] + " " + line["case"]: line for line in found["methods"]}
    assert list(lines) == ["dense down=fp16", "fedpaq down=fp16"] + [
        f"intrinsic mode={mode}, down=fp16, dim=128" for mode in ("static", "time-varying", "k-subspace", "growing")
    ]
    assert "mode=time-varying" in text and "any update" in text and "mlp on digits, 9,610 parameters" in text
    runs = {
        "fedpaq down=fp16": ["down=fp16"],
        "intrinsic mode=k-subspace, down=fp16, dim=128": ["dim=128", "mode=k-subspace", "down=fp16"],
    }
    for name, settings in runs.items():
        options = [part for setting in settings for part in ("--set", setting)]
        folder = tmp_path / name.split()[0]
        call("train", *TASK, "--processes", 1, "--method", name.split()[0], *options, "--out", folder)
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["up_frame_bytes"] == lines[name]["up_total"]
        assert summary["down_frame_bytes"] == lines[name]["down_total"]


def test_lines_are_compared_with_the_dense_run_whether_it_is_asked_for_or_not():
    (dense,), (paq,) = planned("dense", {}), planned("fedpaq", {})
    assert paq.against(dense).times_fewer == dense.total / paq.total
    text = call("plan", "--method", "fedpaq", "--rounds", 1)
    assert "3.98" in text and "dense" not in text  # the first model is a seed


def test_all_methods_are_planned_and_those_that_do_not_fit_say_why(tmp_path):
    text = call("plan", "--method", "all", "--params", 3000, "--rounds", 2, "--json", tmp_path / "plan.json")
    found = json.loads((tmp_path / "plan.json").read_text())
    assert "not planned: intrinsic, mode=static" in text and "3000 parameters have no subspace of dim = 4096" in text
    assert {line["method"] for line in found["methods"]} > {"dense", "topk", "lbgm+topk", "predict", "scaffold"}
    assert any(sentence.startswith("fedpara") for sentence in found["not_planned"])


def test_a_plan_of_shapes_from_a_file(tmp_path):
    (tmp_path / "net.json").write_text(json.dumps({"fc.weight": [50, 64], "fc.bias": [50]}))
    text = call("plan", "--shapes", tmp_path / "net.json", "--method", "dense,fedpara")
    assert "net.json, 3,250 parameters" in text and "gamma=0.1" in text
    assert read_shapes(tmp_path / "net.json") == {"fc.weight": [50, 64], "fc.bias": [50]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "dense,lbmg"], "unknown method 'lbmg'"),
        (["--method", ","], "an entry is empty"),
        (["--set", "fractoin=1"], "has an option 'fractoin'"),
        (["--model", "gpt"], "unknown model 'gpt'"),
        (["--data", "imagenet"], "unknown data set 'imagenet'"),
        (["--params", 3, "--shapes", "x.json"], "not both"),
        (["--shapes", "nowhere.json"], "cannot be read"),
        (["--per-round", 30], "per_round is 30, but there are 20 clients"),
        (["--clients", 10**6, "--rounds", 10**6], "Plan fewer rounds"),
        (["--uplink-mbps", 0], "both rates must be > 0"),
        (["--method", "intrinsic", "--params", 100], "no method fits"),
    ],
)
def test_bad_input_gets_a_sentence(arguments, said):
    assert said in " ".join(call("plan", *arguments, code=2).split())


def test_the_table_has_a_line_for_every_forecast():
    (line,) = planned("dense", {})
    table = terminal([line, line], Link())
    assert table.row_count == 2
