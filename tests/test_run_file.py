"""`fewbits run`: a run, a comparison or a sweep from a file, and the file that makes a run again."""

import json

import pytest
import typer

from commands import call
from fewbits.cli import run

ONE = """
method = "lbgm+topk@threshold=0.5"
set = { fraction = 0.2 }
data = "digits"
clients = 4
rounds = 2
lr = 0.2
processes = 1
"""
SEVERAL = """
methods = ["dense", "few=topk@fraction=0.01"]
seeds = [0, 1]
clients = 3
rounds = 1
steps = 2
at = ["1kB", 2000]
"""


def same(one, other):
    """Whether two runs sent the same bytes and ended with the same model."""
    return all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in ("ledger.jsonl", "model.safetensors")
    )


def test_a_run_file_plays_the_run_of_the_command_and_its_folder_makes_it_again(folder):
    (folder / "one.toml").write_text(ONE)
    call("run one.toml --out a")
    call("train --method lbgm+topk@threshold=0.5,fraction=0.2 --clients 4 --rounds 2 --lr 0.2 --processes 1 --out b")
    call("run a/run.toml --out c")
    assert same(folder / "a", folder / "b") and same(folder / "a", folder / "c")
    configs = [json.loads((folder / name / "config.json").read_text()) for name in "abc"]
    assert configs[0] == configs[1] == configs[2]
    assert (folder / "a/run.toml").read_bytes() == (folder / "c/run.toml").read_bytes()


def test_a_comparison_is_made_again_as_a_whole_and_run_by_run(folder):
    (folder / "several.toml").write_text(SEVERAL + 'out = "a"\n')
    call("run several.toml")
    call("run a/run.toml --out b")
    call("run a/few-seed1/run.toml --out c")
    assert same(folder / "a/few-seed1", folder / "b/few-seed1") and same(folder / "a/few-seed1", folder / "c")
    assert json.loads((folder / "c/summary.json").read_text())["method"] == "few"
    assert (folder / "a/compare.json").read_text() == (folder / "b/compare.json").read_text()


def test_lists_of_values_are_a_sweep_that_goes_on(folder):
    (folder / "sweep.toml").write_text("method = ['dense', 'topk']\nlr = [0.1, 0.2]\nclients = 3\nrounds = 1\n")
    text = call("run sweep.toml --out a").partition("All runs of sweep.toml:")[2]
    for name in ("dense (lr=0.1)", "dense (lr=0.2)", "topk (lr=0.1)", "topk (lr=0.2)"):
        assert name in " ".join(text.split())
    assert "report: a/report.html" in text and "next: fewbits report a --csv a/runs.csv" in text
    assert "4 runs" in (folder / "a/report.html").read_text()
    names = {path.name for path in (folder / "a").iterdir() if path.is_dir()}
    assert names == {f"method={method},lr={lr}" for method in ("dense", "topk") for lr in (0.1, 0.2)}
    kept = (folder / "a/method=dense,lr=0.1/summary.json").stat().st_mtime_ns
    before = (folder / "a/method=topk,lr=0.2/ledger.jsonl").read_bytes()
    (folder / "a/method=topk,lr=0.2/summary.json").unlink()
    call("run sweep.toml --out a")
    assert (folder / "a/method=dense,lr=0.1/summary.json").stat().st_mtime_ns == kept
    assert (folder / "a/method=topk,lr=0.2/ledger.jsonl").read_bytes() == before
    (folder / "other.toml").write_text("lr = [0.1, 0.3]\nclients = 3\n")
    assert "holds no part of the sweep" in call("run other.toml --out a", code=2)


def test_a_stopped_sweep_says_how_all_of_it_goes_on(folder, monkeypatch):
    def stop(found, given, place, force):
        raise typer.Exit(130)

    (folder / "my sweep.toml").write_text("lr = [0.1, 0.2]\nclients = 3\nrounds = 1\n")
    monkeypatch.setattr(run, "_play", stop)
    assert "the whole sweep goes on with: fewbits run 'my sweep.toml' --out a" in call(
        "run 'my sweep.toml' --out a", code=130
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("metod = 'dense'", "unknown key 'metod'; did you mean 'method'?"),
        ("batchsize = 3", "unknown key 'batchsize'; did you mean 'batch-size'?"),
        ("methods = ['dense']\nseed = 1", "unknown key 'seed'; did you mean 'seeds'?"),
        ("lr = 'fast'", "x.toml: lr must be float; got 'fast'"),
        ("rounds = true", "x.toml: rounds must be int"),
        ("rounds = []", "rounds is an empty list"),
        ("rounds = [1, 0]", "rounds must be a whole number"),
        ("resume = 'a'", "unknown key 'resume'"),
        ("log = 3", "x.toml: log must be str; got 3"),
        ("log = ['tensorbord']", "did you mean 'tensorboard'"),
        ("set = ['fraction=2']\nmethod = 'topk'", "fraction"),
        ("lr = ", "x.toml is not TOML"),
    ],
)
def test_a_mistake_in_a_file_is_a_sentence_before_a_folder_is_made(text, sentence, folder):
    (folder / "x.toml").write_text(text)
    assert sentence in call("run x.toml --out a", code=2)
    assert not (folder / "a").exists()


def test_trackers_of_a_file_get_the_rounds(folder):
    pytest.importorskip("tensorboard")
    (folder / "x.toml").write_text("log = ['tensorboard']\nclients = 3\nrounds = 1\nsteps = 1")
    call("run x.toml --out a")
    assert list((folder / "a/tensorboard").rglob("events.*"))


def test_a_file_that_is_not_there_and_a_missing_folder_are_named(folder):
    assert "x.toml cannot be read" in call("run x.toml --out a", code=2)
    (folder / "x.toml").write_text("rounds = 1")
    assert "give --out" in call("run x.toml", code=2)
