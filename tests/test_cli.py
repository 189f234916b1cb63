"""The commands, on digits and for a few rounds."""

import functools
import json
import os
import signal
import time
from collections import Counter
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from fewbits.cli.app import app
from fewbits.cli.codec_text import parse
from fewbits.cli.comparison import Comparison, distribute
from fewbits.cli.config import RunConfig
from fewbits.cli.frame_recorder import FrameRecorder
from fewbits.cli.prepared import build_task, load_data
from fewbits.errors import LocalError
from fewbits.links import Downlink
from fewbits.links.bundle import pack
from fewbits.methods import METHODS, build
from fewbits.methods.text import MethodText
from fewbits.models.build import MODELS
from fewbits.rng import Key
from forked import Forked

KEYS = {"method", "seed", "rounds", "accuracy", "best_accuracy", "up_frame_bytes", "down_frame_bytes", "seconds"} | {
    "up_payload_bytes",
    "down_payload_bytes",
    "recycled",
    "skipped",
    "rejected",
    "diverged",
    "times_fewer",
}
PERSONAL_KEYS = {
    f"personal_{name}" for name in ("accuracy", "spread", "worst", "least", "tenth", "median", "ninetieth")
}
SMALL = ["--clients", "4", "--batch-size", "60", "--processes", "1"]


def call(*arguments, code=0):
    """The command's output, stdout and stderr."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == code, result.output
    return result.output


def json_of(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with frames kept."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    call(
        "train",
        *SMALL,
        "--method",
        "lbgm",
        "--set",
        "threshold=0.5",
        "--rounds",
        3,
        "--keep-frames",
        99,
        "--out",
        folder,
    )
    return folder


# train


def test_train_leaves_everything(run):
    summary = json_of(run / "summary.json")
    assert set(summary) == KEYS
    assert (summary["method"], summary["seed"], summary["rounds"]) == ("lbgm@threshold=0.5", 0, 3)
    assert summary["up_frame_bytes"] == summary["up_payload_bytes"] + 3 * 4 * 16
    text = (run / "report.html").read_text()
    assert "http:" not in text and "https:" not in text and len(text) < 1_000_000
    with Image.open(run / "accuracy.png") as picture:
        picture.verify()
    assert {tuple(x.shape) for x in load_file(run / "model.safetensors").values()} == {
        (128, 64),
        (128,),
        (10, 128),
        (10,),
    }


@pytest.mark.parametrize("method", ["pfedpara", "fedper+topk", "local"])
def test_a_personal_method_is_judged_on_every_clients_held_out_rows(method, tmp_path):
    text = call("train", *SMALL, "--method", method, "--rounds", 2, "--out", tmp_path)
    summary = json_of(tmp_path / "summary.json")
    assert set(summary) == KEYS | PERSONAL_KEYS
    assert "<h2>Clients</h2>" in (tmp_path / "report.html").read_text()
    assert (
        summary["accuracy"] == summary["personal_accuracy"] > summary["personal_worst"] > 0 < summary["personal_spread"]
    )
    assert all(heading in text for heading in ("personal", "worst")) and f"{summary['personal_accuracy']:.1%}±" in text
    assert "personal data" in (tmp_path / "report.html").read_text()


def test_a_share_of_nothing_judges_nobody(tmp_path):
    call("train", *SMALL, "--method", "local", "--holdout", 0, "--rounds", 1, "--out", tmp_path)
    summary = json_of(tmp_path / "summary.json")
    assert set(summary) == KEYS and summary["accuracy"] is None


def test_a_personal_run_resumed_equals_an_uninterrupted_one(tmp_path):
    settings = [*SMALL, "--method", "pfedpara", "--split", "classes:3", "--per-round", 2]
    call("train", *settings, "--rounds", 4, "--out", tmp_path / "whole")
    call("train", *settings, "--rounds", 2, "--out", tmp_path / "parts")
    call("train", "--resume", tmp_path / "parts", "--rounds", 4)
    summaries = [json_of(tmp_path / name / "summary.json") | {"seconds": 0} for name in ("whole", "parts")]
    assert summaries[0] == summaries[1]


def test_train_says_what_it_reached(tmp_path):
    text = call("train", *SMALL, "--rounds", 1, "--out", tmp_path / "a")
    assert "dense" in text and "accuracy" in text and str(tmp_path / "a" / "report.html") in text


def test_a_folder_in_use_is_refused_and_left_alone(run):
    before = (run / "summary.json").read_bytes()
    text = call("train", *SMALL, "--out", run, code=2)
    assert "--resume" in text and "--force" in text
    assert (run / "summary.json").read_bytes() == before


def test_force_replaces_a_run_and_keeps_what_is_not_ours(tmp_path):
    call("train", *SMALL, "--rounds", 2, "--out", tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    call("train", *SMALL, "--rounds", 1, "--method", "topk", "--out", tmp_path, "--force")
    assert json_of(tmp_path / "summary.json")["method"] == "topk"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_force_does_not_touch_a_folder_that_holds_no_run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    assert "no run of this program" in call("train", *SMALL, "--out", tmp_path, "--force", code=2)
    assert (tmp_path / "checkpoints").exists()


def test_a_bad_request_removes_nothing(tmp_path):
    call("train", *SMALL, "--rounds", 1, "--out", tmp_path)
    call("train", "--split", "sideways", "--out", tmp_path, "--force", code=2)
    assert (tmp_path / "summary.json").exists()


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    settings = [*SMALL, "--method", "lbgm+topk", "--split", "classes:3", "--per-round", 3]
    call("train", *settings, "--rounds", 4, "--out", tmp_path / "whole")
    call("train", *settings, "--rounds", 2, "--out", tmp_path / "parts")
    call("train", "--resume", tmp_path / "parts", "--rounds", 4)
    whole, parts = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts
    texts = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "parts")]
    logs = [[json.loads(line) | {"seconds": 0} for line in text.splitlines()] for text in texts]
    assert logs[0] == logs[1]
    assert json_of(tmp_path / "parts" / "config.json")["rounds"] == 4


def test_a_finished_run_can_be_resumed_again(run):
    text = call("train", "--resume", run)
    assert "3/3" in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--method", "magic"], "choose one of dense"),
        (["--model", "magic"], "choose one of mlp"),
        (["--data", "magic"], "choose one of digits"),
        (["--split", "magic"], "iid, dirichlet:A"),
        (["--set", "magic=1"], "has no option 'magic'"),
        (["--set", "magic"], "option=value"),
        (["--method", "topk", "--set", "bits=many"], "must be int"),
        (["--method", "lbgm", "--set", "normalise=some"], "normalise must be one of sampled, all"),
        (["--lr", "-1"], "lr must be a finite number above 0; got -1.0"),
        (["--rounds", "0"], "rounds must be a whole number, 1 or more; got 0"),
        (["--per-round", "50"], "there are 20 clients"),
        (["--data", "mnist", "--data-dir", "/nowhere"], "no folder /nowhere"),
        (["--holdout", "1.5"], "holdout must be a number in [0, 1), such as 0.2; got 1.5"),
        (["--method", "pfedpara", "--clients", "1400"], "to hold one out it needs two"),
        (["--method", "fedper", "--set", "private=head"], "private: pattern 'head' matches nothing; there are"),
        (["--method", "fedpara", "--set", "skip=head"], "skip: pattern 'head' matches nothing; there are"),
        (
            ["--method", "scaffold", "--momentum", "0.5"],
            "plain SGD's steps, without momentum and clip; got momentum 0.5",
        ),
        (["--method", "fedpara+magic"], "unknown method 'magic'"),
        (["--method", "fedpara+"], "unknown method 'fedpara+'"),
    ],
)
def test_bad_input_is_a_sentence(tmp_path, arguments, sentence):
    text = call("train", *arguments, "--out", tmp_path / "x", code=2)
    assert sentence in text and "Traceback" not in text and text.startswith("fewbits: ")
    assert not (tmp_path / "x").exists()


def test_out_is_needed():
    assert "--out" in call("train", code=2)


def test_resume_takes_no_other_settings(run):
    assert "--lr cannot be changed" in call("train", "--resume", run, "--lr", 1, code=2)
    assert "not shorten" in call("train", "--resume", run, "--rounds", 1, code=2)


def test_resume_needs_a_run(tmp_path):
    assert "stopped before it began" in call("train", "--resume", tmp_path, code=2)


def test_a_path_that_is_none_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("mine")
    text = call("train", *SMALL, "--rounds", 1, "--out", tmp_path / "file" / "x", code=2)
    assert text.startswith("fewbits: ") and "Traceback" not in text and len(text.splitlines()) == 1


@pytest.mark.parametrize("keep", [0, 200])
def test_a_truncated_parquet_file_is_named(tmp_path, keep):
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = tmp_path / "train-0.parquet"
    pq.write_table(pa.table({"label": list(range(1000))}), whole)
    whole.write_bytes(b"PAR1" * (keep > 0) + whole.read_bytes()[-keep:] * (keep > 0))
    text = call("train", "--data", "mnist", "--data-dir", tmp_path, "--out", tmp_path / "x", code=2)
    assert "train-0.parquet cannot be read" in text and not (tmp_path / "x").exists()


# methods as text, and what is built how often


@pytest.fixture
def built(monkeypatch):
    """How often each method and each model was built."""
    counts = Counter()

    def counted(name, make):
        @functools.wraps(make)
        def call(*arguments, **options):
            counts[name] += 1
            return make(*arguments, **options)

        return call

    for name, make in list(METHODS.items()):
        monkeypatch.setitem(METHODS, name, counted(name, make))
    for name, entry in list(MODELS.items()):
        monkeypatch.setitem(MODELS, name, replace(entry, make=counted(name, entry.make)))
    return counts


def test_one_train_builds_the_method_and_the_model_once(tmp_path, built):
    call("train", *SMALL, "--method", "topk", "--rounds", 2, "--out", tmp_path)
    assert built == {"topk": 1, "mlp": 1}
    built.clear()
    call("train", "--resume", tmp_path, "--rounds", 3)
    assert built == {"topk": 1, "mlp": 1}


def test_one_comparison_builds_each_method_once_and_a_model_per_seed(tmp_path, built):
    call("compare", *SMALL, "--methods", "dense,topk", "--seeds", "0,1", "--rounds", 1, "--out", tmp_path)
    assert built == {"dense": 1, "topk": 1, "mlp": 2}


def test_a_model_from_the_runs_seed_is_the_one_that_is_built(tmp_path):
    for method in ("dense", "fedpara"):
        task = build_task(RunConfig(method=method, seed=4), load_data(RunConfig()))
        other = build_task(RunConfig(method=method, seed=5), load_data(RunConfig()))
        again, new = task.build(Key(4)).state_dict(), other.build(Key(4)).state_dict()
        assert all(
            torch.equal(x, again[name]) and torch.equal(x, new[name]) for name, x in task.model.state_dict().items()
        )


def test_options_in_the_methods_text_are_those_of_set(tmp_path):
    call("train", *SMALL, "--method", "topk@fraction=0.1,bits=8", "--rounds", 1, "--out", tmp_path / "text")
    both = ["--set", "fraction=0.1", "--set", "bits=8"]
    call("train", *SMALL, "--method", "topk", *both, "--rounds", 1, "--out", tmp_path / "set")
    texts = [(tmp_path / name / "config.json").read_text() for name in ("text", "set")]
    assert texts[0] == texts[1]


def test_variants_of_one_method_are_compared_under_their_labels(tmp_path):
    text = call(
        *("compare", *SMALL, "--methods", "dense,a=topk@fraction=0.01,bits=8,topk@fraction=0.5", "--rounds", 1),
        *("--set", "topk.down=delta4", "--out", tmp_path),
    )
    found = json_of(tmp_path / "summary.json")
    assert [s["method"] for s in found] == ["dense", "a", "topk@fraction=0.5"]
    assert found[1]["up_frame_bytes"] < found[2]["up_frame_bytes"]
    assert json_of(tmp_path / "a-seed0" / "config.json")["settings"] == {
        "fraction": "0.01",
        "bits": "8",
        "down": "delta4",
    }
    assert "topk" in text and "@fraction=0.5" in text
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/model.safetensors")}
    assert len(before) == 3
    call("compare", "--resume", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "finished runs are known again"


# Ctrl-C


def wait_for_round(folder, process, rounds=2):
    """Until the run has logged so many rounds."""
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        log = folder / "metrics.jsonl"
        if log.exists() and log.read_bytes().count(b"\n") >= rounds:
            return
        time.sleep(0.02)
    process.kill()
    pytest.fail(f"no round was played: {process.communicate()}")


@pytest.mark.slow
@pytest.mark.parametrize("presses", [1, 2])
def test_after_ctrl_c_the_run_goes_on_as_if_nothing_had_happened(tmp_path, presses):
    settings = ["--clients", 8, "--processes", 2, "--steps", 1, "--method", "topk", "--checkpoint-every", 4]
    process = Forked(["-m", "fewbits", "train", *settings, "--rounds", 100_000, "--out", tmp_path / "cut"])
    wait_for_round(tmp_path / "cut", process, rounds=5)
    for _ in range(presses):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"fewbits train --resume {tmp_path / 'cut'}" in out.replace("\n", "") and "Traceback" not in err
    if presses == 1:
        assert "Finishing this round" in err
    done = len((tmp_path / "cut" / "metrics.jsonl").read_text().splitlines())
    config = json_of(tmp_path / "cut" / "config.json") | {"rounds": done + 2}
    (tmp_path / "cut" / "config.json").write_text(json.dumps(config))
    call("train", "--resume", tmp_path / "cut")
    call("train", *settings, "--rounds", done + 2, "--out", tmp_path / "whole")
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("cut", "whole")]
    assert models[0] == models[1]
    summaries = [json_of(tmp_path / name / "summary.json") | {"seconds": 0} for name in ("cut", "whole")]
    assert summaries[0] == summaries[1]


# compare


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "comparison"
    arguments = [
        "--methods",
        "dense,topk,lbgm+topk",
        "--seeds",
        "0,1",
        "--set",
        "topk.fraction=0.1",
        "--set",
        "down=delta4",
    ]
    text = call("compare", *SMALL, *arguments, "--rounds", 2, "--target-accuracy", 0.2, "--out", folder)
    return folder, text


def test_a_bad_value_of_an_option_is_refused(tmp_path):
    text = call("compare", *SMALL, "--methods", "dense,topk", "--set", "fraction=2", "--out", tmp_path / "x", code=2)
    assert "fraction" in text and not (tmp_path / "x").exists()


def test_compare_sums_up_every_run(comparison):
    folder, text = comparison
    found = json_of(folder / "summary.json")
    assert [(s["method"], s["seed"]) for s in found] == [(m, s) for s in (0, 1) for m in ("dense", "topk", "lbgm+topk")]
    assert all(set(s) == KEYS | {"target_accuracy", "bytes_to_target", "accuracy_at"} for s in found)
    for one in found:
        dense = next(s for s in found if s["method"] == "dense" and s["seed"] == one["seed"])
        assert one["times_fewer"] == pytest.approx(sum_of(dense) / sum_of(one))
        own = json_of(folder / f"{one['method']}-seed{one['seed']}" / "summary.json")
        assert own["up_frame_bytes"] == one["up_frame_bytes"]
    for heading in ("method", "accuracy", "fewer", "recycled", "MB to", "target", "±"):
        assert heading in text
    assert "http" not in (folder / "report.html").read_text()


def sum_of(summary):
    return summary["up_frame_bytes"] + summary["down_frame_bytes"]


def test_settings_reach_the_methods_they_are_for(comparison):
    configs = {path.parent.name: json_of(path)["settings"] for path in comparison[0].glob("*/config.json")}
    assert configs["topk-seed0"] == {"fraction": "0.1", "down": "delta4"}
    assert configs["lbgm+topk-seed1"] == {"down": "delta4"}


def test_a_stopped_comparison_goes_on(comparison):
    folder, _ = comparison
    before = json_of(folder / "summary.json")
    (folder / "topk-seed1" / "summary.json").unlink()  # as if it had been stopped there
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*/model.safetensors")}
    call("compare", "--resume", folder)
    assert json_of(folder / "summary.json") == before
    again = {path for path, when in times.items() if path.stat().st_mtime_ns != when}
    assert {path.parent.name for path in again} == {"topk-seed1"}


def test_methods_of_one_seed_start_from_one_model_and_partition():
    runs = Comparison(RunConfig(clients=4), ("dense", "topk"), (0, 1)).runs()
    assert list(runs) == ["dense-seed0", "topk-seed0", "dense-seed1", "topk-seed1"]
    assert {name: (c.method, c.seed) for name, c in runs.items()}["topk-seed1"] == ("topk", 1)


def test_all_methods_of_a_comparison_have_the_same_rows_held_out():
    def tasks(methods, **more):
        runs = Comparison(RunConfig(clients=4, **more), methods, (0,)).runs()
        return [build_task(config, load_data(config)) for config in runs.values()]

    plain, personal = tasks(("dense", "pfedpara"))
    assert len(plain.holdout) == 4 and all(map(np.array_equal, plain.holdout, personal.holdout))
    assert all(map(np.array_equal, plain.parts, personal.parts))
    assert not any(set(a) & set(b) for a, b in zip(plain.parts, plain.holdout, strict=True))
    assert [len(t.holdout) for t in tasks(("dense", "fedpara"))] == [0, 0]
    assert [len(t.holdout) for t in tasks(("dense", "local"), holdout=0.0)] == [0, 0]
    half, other = tasks(("dense", "local"), holdout=0.5)
    assert [len(rows) for rows in half.holdout] == [len(rows) for rows in other.holdout]
    assert sum(map(len, half.holdout)) == pytest.approx(sum(map(len, half.parts)), abs=4)


def test_a_comparison_judges_every_method_alike(tmp_path):
    call("compare", *SMALL, "--methods", "dense,local", "--rounds", 1, "--out", tmp_path)
    found = json_of(tmp_path / "summary.json")
    assert all(set(s) - {"accuracy_at"} == KEYS | PERSONAL_KEYS for s in found)
    assert (
        found[0]["accuracy"] != found[0]["personal_accuracy"] and found[1]["accuracy"] == found[1]["personal_accuracy"]
    )
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/model.safetensors")}
    call("compare", "--resume", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "finished runs are known again"


def test_a_bad_request_with_force_removes_nothing(run):
    before = (run / "summary.json").read_bytes()
    for arguments in (["--method", "scaffold", "--momentum", "0.5"], ["--method", "fedper", "--set", "private=head"]):
        call("train", *SMALL, *arguments, "--out", run, "--force", code=2)
    assert (run / "summary.json").read_bytes() == before


def test_settings_that_nobody_has_are_refused():
    with pytest.raises(LocalError, match="none of dense, topk"):
        distribute(["threshold=1"], [MethodText("dense"), MethodText("topk")])
    with pytest.raises(LocalError, match="not among"):
        distribute(["lbgm.threshold=1"], [MethodText("dense"), MethodText("topk")])
    assert distribute(["lbgm+topk.fraction=0.1"], [MethodText("lbgm+topk")]) == {"lbgm+topk": {"fraction": "0.1"}}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--methods"),
        (["--methods", "dense,dense"], "each once"),
        (["--methods", "dense", "--seeds", "a"], "whole numbers"),
        (["--methods", "dense,magic"], "unknown method 'magic'"),
        (["--methods", "dense", "--target-accuracy", "90"], "0.9 for 90%"),
        (["--methods", "dense,scaffold", "--momentum", "0.5"], "without momentum and clip"),
    ],
)
def test_bad_comparisons_are_sentences(tmp_path, arguments, sentence):
    assert sentence in call("compare", *arguments, "--out", tmp_path / "x", code=2)


# demo


def test_demo_compares_five_methods_and_replaces_itself(tmp_path, monkeypatch):
    from fewbits.cli import demo

    monkeypatch.setattr(demo, "TASK", replace(demo.TASK, rounds=2, processes=1))
    for _ in range(2):
        text = call("demo", "--out", tmp_path)
    found = json_of(tmp_path / "summary.json")
    assert [s["method"] for s in found] == ["dense", "topk", "lbgm", "lbgm+topk", "intrinsic+deadzone"]
    assert all(method in text for method in demo.METHODS)
    assert (tmp_path / "accuracy.png").exists() and (tmp_path / "report.html").stat().st_size < 1_000_000


def test_a_demo_that_was_stopped_goes_on_by_compare(tmp_path, monkeypatch):
    from fewbits.cli import demo, play
    from fewbits.cli.interrupt import Interrupt

    class Pressed(Interrupt):
        def __init__(self):
            super().__init__()
            self.asked = True

    monkeypatch.setattr(demo, "TASK", replace(demo.TASK, rounds=2, processes=1))
    with monkeypatch.context() as stopped:
        stopped.setattr(play, "Interrupt", Pressed)
        folder = tmp_path / "demo"
        folder.mkdir()
        (folder / "compare.json").write_text("{}")  # an earlier one, to be replaced
        text = call("demo", "--out", folder, code=130)
    assert f"fewbits compare --resume {folder}" in text
    call("compare", "--resume", folder)
    assert [s["method"] for s in json_of(folder / "summary.json")] == list(demo.METHODS)


def test_demo_does_not_write_over_strangers_files(tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    assert "no run of this program" in call("demo", "--out", tmp_path, code=2)


# inspect


def test_inspect_reads_every_frame_of_a_run(run):
    frames = sorted((run / "frames").glob("*.bin"))
    assert len(frames) == 2 * 4 * 3
    for frame in frames:
        text = call("inspect", frame, "--run", run)
        way = "uplink" if "-up" in frame.name else "downlink"
        assert f"frame of {frame.stat().st_size:,} bytes" in text and f"{way} codec: " in text


@pytest.mark.parametrize("method", METHODS)
def test_inspect_accounts_for_every_bit_of_every_method(tmp_path, method):
    from fewbits.cli.inspect import described, sections
    from fewbits.wire import Frame

    call(
        "train",
        *SMALL,
        "--method",
        method,
        "--rounds",
        2,
        "--keep-frames",
        99,
        "--out",
        tmp_path,
        "--checkpoint-every",
        50,
    )
    for path in sorted((tmp_path / "frames").glob("*.bin")):
        frame = Frame.parse(path.read_bytes())
        found = sections(frame, described(tmp_path / "wire.json", frame.header.codec))
        tops = [s for s in found if "/" not in s.name]
        assert tops[0].start == 0 and 0 <= 8 * len(frame.payload) - tops[-1].stop < 8
        assert all(a.stop == b.start for a, b in pairwise(tops))


def test_inspect_of_a_frame_away_from_its_run_shows_the_header(run, tmp_path):
    lone = tmp_path / "elsewhere" / "deep" / "frame.bin"
    lone.parent.mkdir(parents=True)
    lone.write_bytes((run / "frames" / "round0002-client1-up.bin").read_bytes())
    text = call("inspect", lone)
    assert "sequence" in text and "codec is not known" in text


def test_inspect_of_a_kept_frame_finds_its_run(run):
    frame = run / "frames" / "round0002-client1-up.bin"
    assert call("inspect", frame) == call("inspect", frame, "--run", run)


def test_inspect_takes_codec_and_shape(run):
    frame = run / "frames" / "round0001-client1-up.bin"
    text = call("inspect", frame, "--codec", "fb.flat(fb.LookBack(fb.Raw(), threshold=0.5))", "--shape", 9610)
    assert "recycled" in text and "another hash" in text


@pytest.mark.parametrize(
    ("arguments", "sentence", "code"),
    [
        (["--codec", "flat(Raw())"], "together with --shape", 2),
        (["--codec", "__import__('os').system('true')", "--shape", "3"], "not part of a codec", 2),
        (["--codec", "open('x')", "--shape", "3"], "unknown codec 'open'", 2),
        (["--codec", "flat(", "--shape", "3"], "not a codec", 2),
        (["--codec", "TopK(nonsense=1)", "--shape", "3"], "TopK", 2),
        (["--codec", "flat(Raw())", "--shape", "-3"], "negative", 2),
        (["--codec", "flat(Raw())", "--shape", "3"], "too long", 1),
    ],
)
def test_inspect_refuses_with_a_sentence(run, arguments, sentence, code):
    text = call("inspect", run / "frames" / "round0001-client1-up.bin", *arguments, code=code)
    assert sentence in text and "Traceback" not in text


def test_inspect_of_a_folder_says_which_of_its_files_to_give(run):
    assert f"{run} is a folder; give one of its frames" in call("inspect", run, code=2).replace("\n", " ")


def test_inspect_refuses_what_is_no_frame(run, tmp_path):
    assert "not a fewbits frame" in call("inspect", run / "config.json", code=1)
    assert "cannot be read" in call("inspect", tmp_path / "none.bin", code=2)


def test_inspect_refuses_another_runs_frame(run, tmp_path):
    call("train", *SMALL, "--method", "topk", "--rounds", 1, "--keep-frames", 2, "--out", tmp_path)
    frame = next((tmp_path / "frames").glob("*up.bin"))
    assert "hash is" in call("inspect", frame, "--run", run, code=2)


def test_a_bundle_of_several_frames_becomes_several_files(tmp_path):
    keeper = FrameRecorder(tmp_path, 1)
    keeper(3, 7, "down", pack([b"a", b"b"]))
    keeper(3, 8, "up", b"c")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {
        "round0003-client7-down.0.bin": b"a",
        "round0003-client7-down.1.bin": b"b",
    }


# codecs as text, configurations, lists


@pytest.mark.parametrize("method", METHODS)
def test_a_codecs_text_gives_the_codec_back(method):
    made = build(method)
    for codec in (made.up, Downlink.of(made.down).public):
        assert parse(repr(codec)) == codec


@pytest.mark.parametrize(
    "text", ["1", "'a'", "x", "Raw", "Raw().codec", "lambda: 1", "[Raw() for i in (1,)]", "Raw() | Raw()", "f'{1}'"]
)
def test_what_is_no_codec_is_refused(text):
    with pytest.raises(LocalError):
        parse(text)


def test_a_configuration_survives_its_file(tmp_path):
    config = RunConfig(method="topk", settings={"fraction": "0.1"}, steps=3, clip=1.0, data_dir="/x")
    config.write(tmp_path)
    assert RunConfig.read(tmp_path) == config


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ({"speed": 1}, "unknown key 'speed'"),
        ({"rounds": "3"}, "rounds must be int"),
        ({"rounds": True}, "rounds must be int"),
        ({"clip": "x"}, "clip must be float or null"),
        ({"settings": {"a": 1}}, "settings must be dict"),
        ([], "expected a JSON object"),
    ],
)
def test_a_configuration_is_checked_when_read(found, sentence):
    with pytest.raises(LocalError, match=sentence):
        RunConfig.parse(found, "config.json")


@pytest.mark.parametrize("command", ["methods", "data", "models"])
def test_lists_show_every_name(command):
    from fewbits import data, models

    names = {"methods": METHODS, "data": data.NAMES, "models": models.NAMES}[command]
    text = call(command)
    assert all(name in text for name in names)


COMMANDS = ["train", "compare", "gossip", "demo", "diagnose", "plan", "inspect", "export", "methods", "data", "models"]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_there_and_fits_80_columns_uncut(command):
    result = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "80", "NO_COLOR": "1"})
    assert result.exit_code == 0 and "Usage" in result.output and "…" not in result.output


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("methods", "One method, such as lbgm+topk."),
        ("inspect", "A file;"),
        ("export", "Folder of a finished run."),
        ("flower new", "Folder of the project;"),
        ("flower check", "HOST:PORT of the SuperLink."),
    ],
)
def test_the_help_of_a_command_says_what_its_argument_is(command, words):
    assert words in call(*command.split(), "--help")


def test_the_help_of_train_has_every_field_of_a_configuration_with_its_default():
    text = " ".join(call("train", "--help").replace("│", " ").split())
    for field in fields(RunConfig):
        if field.name in ("settings", "label", "chosen", "instead"):  # the last: what --method auto found
            continue
        assert f"--{field.name.replace('_', '-')} " in text
        if isinstance(field.default, str | int | float):
            assert f"Default: {field.default}." in text
