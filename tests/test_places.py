"""Where commands write: a place that cannot take files, or that a live run has, is refused before any work."""

import errno
import os
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import fewbits as fb
from fewbits.cli.gossip import nodes
from fewbits.cli.gossip.config import GossipConfig
from fewbits.files import check_file, check_folder
from fewbits.topology import ring
from forked import Forked
from test_cli import SMALL, call, json_of, wait_for_round

CLIENTS = [(torch.eye(4), torch.arange(4))] * 3
RUNS = {
    "train": ["train", *SMALL],
    "compare": ["compare", *SMALL, "--methods", "dense,topk"],
    "gossip": ["gossip", "--nodes", "4", "--topology", "ring"],
    "demo": ["demo"],
    "diagnose": ["diagnose"],
}
WORK = (
    "fewbits.data.load",
    "fewbits.cli.plan.plan_model",
    "fewbits.cli.export.save_model",
)


@pytest.fixture
def idle(monkeypatch):
    """Any work fails the test."""

    def work(*_: object, **__: object):
        raise AssertionError("work was begun")

    for name in WORK:
        monkeypatch.setattr(name, work)


@pytest.fixture
def read_only(monkeypatch):
    """A disk on which nothing can be made, also for root."""

    def refuse(*_: object, **__: object):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)


@pytest.mark.parametrize("command", RUNS)
def test_a_folder_below_a_file_is_refused_before_any_work(command, tmp_path, idle):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "x"):
        text = call(*RUNS[command], "--out", place, code=2)
        assert text == f"fewbits: {place} cannot be written: {tmp_path / 'file'} is a file; give a folder\n"


@pytest.mark.parametrize("command", RUNS)
def test_a_folder_on_a_read_only_disk_is_refused_before_any_work(command, tmp_path, idle, read_only):
    place = tmp_path / "not" / "yet"
    text = call(*RUNS[command], "--out", place, code=2)
    assert text == f"fewbits: {place} cannot be written: Read-only file system in {tmp_path}\n"


def test_a_file_that_cannot_be_written_is_refused_before_any_work(tmp_path, idle):
    sentences = {
        tmp_path / "none" / "x.json": f"cannot be written: there is no folder {tmp_path / 'none'}",
        tmp_path: "is a folder; give a file",
    }
    for place, sentence in sentences.items():
        assert sentence in call("plan", "--json", place, code=2)
    assert list(tmp_path.iterdir()) == []


def test_a_frame_that_cannot_be_written_is_refused(tmp_path, idle):
    folder = tmp_path / "run"
    fb.federate(torch.nn.Linear(4, 4), CLIENTS, "dense", 1, out=folder)
    text = call("export", folder, "--out", tmp_path / "none" / "x.frame", code=2)
    assert "there is no folder" in text


def test_a_place_that_can_be_written_is_left_as_it_is(tmp_path):
    check_folder(tmp_path / "not" / "yet")
    check_file(tmp_path / "x.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", [fb.federate, fb.gossip])
def test_python_refuses_them_too(call, tmp_path, read_only):
    more = {"network": ring(3)} if call is fb.gossip else {}
    method = "dsgd" if call is fb.gossip else "dense"
    with pytest.raises(fb.LocalError, match="Read-only file system") as error:
        call(torch.nn.Linear(4, 4), CLIENTS, method=method, rounds=1, out=tmp_path / "x", **more)
    assert isinstance(error.value.__cause__, OSError)


# A folder that a live run has


@pytest.fixture
def live(tmp_path):
    """A run's process, which has tmp_path / "run"; it was forked before the test changed anything."""
    process = Forked(["-m", "fewbits", "train", *SMALL, "--rounds", 100_000, "--out", tmp_path / "run"])
    try:
        wait_for_round(tmp_path / "run", process)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_the_process_that_has_a_folder_is_named_at_once(tmp_path, live, idle):
    folder = tmp_path / "run"
    before = json_of(folder / "config.json")
    for arguments in (["--out", folder], ["--out", folder, "--force"], ["--resume", folder]):
        text = call("train", *arguments, code=2)
        assert f"{folder} is in use by process {live.pid} on " in text
        assert "--resume" not in text.partition("since")[2] and "--force" not in text
    assert "is in use by process" in call(*RUNS["compare"], "--out", folder, "--force", code=2)
    assert json_of(folder / "config.json") == before


@pytest.mark.slow
@pytest.mark.parametrize(("finished", "processes"), [(True, 1), (False, 2)])
def test_after_a_kill_the_run_goes_on_to_the_same_bytes(finished, processes, tmp_path):
    settings = ["--clients", 4, "--batch-size", 60, "--method", "lbgm+topk", "--processes", processes]
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    rounds = 3 if finished else 100_000
    more = ["--checkpoint-every", 2, "--rounds", rounds, "--out", cut]
    process = Forked(["-m", "fewbits", "train", *settings, *more])
    try:
        wait_for_round(cut, process, 3)
        if finished:
            while not (cut / "summary.json").exists():
                assert process.poll() in (None, 0)
                time.sleep(0.02)
    finally:
        process.kill()
        process.communicate()
    done = len((cut / "metrics.jsonl").read_text().splitlines())
    last = rounds if finished else done + 1
    config = (cut / "config.json").read_text().replace('"rounds": 100000', f'"rounds": {last}')
    (cut / "config.json").write_text(config)
    call("train", "--resume", cut)
    call("train", *settings, "--rounds", last, "--out", whole)
    for name in ("model.safetensors", "ledger.jsonl"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    assert json_of(cut / "summary.json") | {"seconds": 0} == json_of(whole / "summary.json") | {"seconds": 0}


def test_a_removal_that_is_cut_short_leaves_a_run(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    call("train", *SMALL, "--rounds", 1, "--out", folder)

    def cut(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", cut)
        call("train", *SMALL, "--rounds", 1, "--out", folder, "--force", code=1)
    call("train", *SMALL, "--rounds", 1, "--out", folder, "--force")


# Fewer rounds than the folder holds


@pytest.mark.parametrize("call", [fb.federate, fb.gossip, fb.compare])
def test_fewer_rounds_than_the_folder_holds_are_refused(call, tmp_path):
    what = {fb.federate: {"method": "dense"}, fb.compare: {"methods": ["dense"], "seeds": [0]}}
    more = what.get(call, {"method": "dsgd", "network": ring(3)})

    def run(rounds):
        return call(torch.nn.Linear(4, 4), CLIENTS, rounds=rounds, out=tmp_path, **more)

    torch.manual_seed(0)
    run(4)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")}
    torch.manual_seed(0)
    with pytest.raises(fb.LocalError, match="rounds can extend a run, not shorten it: it has 4; got 3"):
        run(3)
    assert {path: path.read_bytes() for path in before} == before
    for rounds in (4, 5):
        torch.manual_seed(0)
        run(rounds)


# Notes of runs over a network


@pytest.mark.parametrize("rank", [0, 1])
def test_notes_of_a_run_over_a_network_are_printed_by_the_first_node(rank, tmp_path, monkeypatch, capsys):
    result = SimpleNamespace(notes=["node 2 took no step in round 3"])
    monkeypatch.setattr(nodes, "DistributedRun", lambda *_: SimpleNamespace(run=lambda watch: result))
    monkeypatch.setattr(nodes, "save_result", lambda *_: None)
    world = SimpleNamespace(rank=rank, agree=lambda *_: [{"finished": ""}])
    compared = SimpleNamespace(prepare=lambda _: SimpleNamespace(task=None, method=None))
    console = nodes.screen(quiet=rank != 0)
    row = SimpleNamespace(rest=list)  # none of them was told before
    nodes._run(compared, GossipConfig(), tmp_path / "run", row, world, console)  # pyright: ignore
    assert capsys.readouterr().out == ("note: node 2 took no step in round 3\n" if rank == 0 else "")
