"""One folder has one run: another process is refused, another run is refused, a run that left nothing begins anew."""

import functools
import json
import multiprocessing
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, multi_margin_loss
from typer.testing import CliRunner

import fewbits as fb
from fewbits.cli.app import app
from fewbits.engines.common.run_files import check_continues
from fewbits.engines.common.run_lock import LOCK, RunLock
from fewbits.methods.gossip import gossip_method
from fewbits.simulation import Federation, GossipRun, Schedule, Task

FORK = multiprocessing.get_context("fork")


def data(seed: int, clients: int = 3, rows: int = 12) -> list[tuple[torch.Tensor, torch.Tensor]]:
    key = fb.Key(seed)
    return [
        (
            torch.from_numpy(key.fold("x", c).normal(rows * 5)).reshape(rows, 5),
            torch.arange(rows) % 3,
        )
        for c in range(clients)
    ]


def model(seed: int = 0) -> nn.Module:
    made = nn.Linear(5, 3)
    with torch.no_grad():
        made.weight.copy_(torch.from_numpy(fb.Key(seed).fold("w").normal(15)).reshape(3, 5))
        made.bias.zero_()
    return made


def task(**changes: object) -> Task:
    given = {"model": model(), "clients": data(0), "test": data(9)[0]} | changes
    return Task.of(given["model"], given["clients"], given["test"], loss=given.get("loss"))  # pyright: ignore


def train(out: Path, rounds: int = 2, watch=None, **changes: object):
    return Federation(task(**changes), fb.methods.dense(), Schedule(rounds, processes=1), fb.Key(0), out).run(watch)


def gossip(out: Path, rounds: int = 2, **changes: object):
    schedule, method = Schedule(rounds, processes=1), gossip_method("malcom@gamma=0.5")
    return GossipRun(task(**changes), method, fb.topology.ring(3), schedule, fb.Key(0), out).run()


def smoothed(share: float) -> Callable[..., torch.Tensor]:
    return lambda out, y: cross_entropy(out, y, label_smoothing=share)


LOSS = smoothed(0.1)
OTHERS = {
    "data": {"clients": data(1)},
    "targets alone": {"clients": [(x, (y + 1) % 3) for x, y in data(0)]},
    "test set": {"test": data(8)[0]},
    "no test set": {"test": None},
    "initial model": {"model": model(1)},
    "loss": {"loss": multi_margin_loss},
    "an option of the loss": {"loss": functools.partial(cross_entropy, label_smoothing=0.1)},
    "weights of the loss": {"loss": nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0]))},
    "what the loss closes over": {"loss": smoothed(0.2)},
}


def files(folder: Path) -> dict[Path, bytes]:
    """All files of a run but its lock."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != LOCK}


@pytest.mark.parametrize("call", [train, gossip])
@pytest.mark.parametrize("name", OTHERS)
def test_a_folder_of_other_data_loss_test_set_or_start_is_refused(call, name, tmp_path):
    first = {"loss": LOSS} if name == "what the loss closes over" else {}
    call(tmp_path, **first)
    before = files(tmp_path)
    with pytest.raises(fb.LocalError, match=r"holds another run; its (data|test set|initial model|loss): .*; got "):
        call(tmp_path, rounds=3, **first | OTHERS[name])
    assert files(tmp_path) == before


@pytest.mark.parametrize("loss", [None, LOSS, nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0]))])
@pytest.mark.parametrize("call", [train, gossip])
def test_the_same_call_goes_on_with_the_initial_model_and_with_the_trained_one(call, loss, tmp_path):
    whole = call(tmp_path / "whole", rounds=4, loss=loss)
    first = call(tmp_path / "parts", rounds=2, loss=loss)
    call(tmp_path / "parts", rounds=3, loss=loss, model=first.model)
    last = call(tmp_path / "parts", rounds=4, loss=loss)
    assert last.ledger.frame_bytes == whole.ledger.frame_bytes
    assert torch.equal(last.model.weight, whole.model.weight)  # pyright: ignore


def test_an_equal_loss_made_anew_is_the_same_loss(tmp_path):
    train(tmp_path, loss=smoothed(0.1))
    assert len(train(tmp_path, rounds=3, loss=smoothed(0.1)).reports) == 3


def hold(folder: Path, pipe) -> None:
    _lock = RunLock.of(folder)
    pipe.send_bytes(b"locked")
    pipe.recv_bytes()


@pytest.fixture
def busy(tmp_path):
    """A folder that another process has, and that process."""
    folder, (ours, theirs) = tmp_path / "run", FORK.Pipe()
    folder.mkdir()
    other = FORK.Process(target=hold, args=(folder, theirs), daemon=True)
    other.start()
    assert ours.recv_bytes() == b"locked"
    yield folder, other
    other.kill()
    other.join()


def serve(folder: Path) -> None:
    """A Flower server that continues in a folder."""
    pytest.importorskip("flwr")
    from flwr.app import ArrayRecord

    from fewbits.engines.flower import Federated

    strategy = Federated(fb.methods.dense(), 1, state=folder, evaluate=0.0)
    grid = SimpleNamespace(get_node_ids=lambda: [1], run=SimpleNamespace(run_id=1))
    strategy.start(grid, ArrayRecord(model().state_dict()), num_rounds=0)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("call", [train, gossip, serve])
def test_a_folder_that_another_process_has_is_refused_by_its_number(call, busy):
    folder, other = busy
    with pytest.raises(fb.LocalError, match=rf"is in use by process {other.pid} on \S+ \(.*\), since "):
        call(folder)
    assert [path.name for path in folder.iterdir()] == [LOCK]


def test_a_comparison_is_refused_there_too(busy):
    folder, other = busy
    with pytest.raises(fb.LocalError, match=f"process {other.pid}"):
        fb.compare(model(), data(0), ["dense"], seeds=[0], rounds=1, out=folder)


def test_a_lock_of_a_killed_process_is_taken_over(busy):
    folder, other = busy
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    assert len(train(folder).reports) == 2
    assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()


def test_two_runs_of_one_process_cannot_be_played_in_one_folder_at_a_time(tmp_path):
    said = []

    def watch(report: object) -> None:
        with pytest.raises(fb.LocalError) as error:
            train(tmp_path)
        said.append(str(error.value))

    train(tmp_path, rounds=1, watch=watch)
    assert re.search("another run of this process is being played", said[0])


LEFT = [(), (LOCK,), ("wire.json",), ("config.json.part",), ("metrics.jsonl", "ledger.jsonl")]


@pytest.mark.parametrize("left", LEFT)
def test_a_run_that_was_killed_before_it_left_anything_begins_anew(left, tmp_path):
    for name in left:
        (tmp_path / name).touch()
    check_continues(tmp_path)
    assert len(train(tmp_path).reports) == 2


SHARE = 0.1


def by_a_global(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return scaled(out, y)


def scaled(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return cross_entropy(out, y, label_smoothing=SHARE)


def test_an_attribute_of_a_loss_module_is_part_of_the_loss(tmp_path):
    train(tmp_path, loss=nn.CrossEntropyLoss(label_smoothing=0.1))
    train(tmp_path, loss=nn.CrossEntropyLoss(label_smoothing=0.1))
    for other in (nn.CrossEntropyLoss(label_smoothing=0.2), nn.CrossEntropyLoss(label_smoothing=0.1, ignore_index=2)):
        with pytest.raises(fb.LocalError, match=r"holds another run; its loss: CrossEntropyLoss"):
            train(tmp_path, loss=other)


def test_a_number_that_a_loss_reads_from_its_file_is_part_of_the_loss(tmp_path, monkeypatch):
    train(tmp_path, loss=by_a_global)
    train(tmp_path, loss=by_a_global)
    monkeypatch.setitem(by_a_global.__globals__, "SHARE", 0.2)
    with pytest.raises(fb.LocalError, match=r"holds another run; its loss: by_a_global"):
        train(tmp_path, loss=by_a_global)


def test_a_folder_of_another_metric_is_refused(tmp_path):
    def run(metric):
        fb.federate(model(), data(0), "dense", 1, test=data(9)[0], metric=metric, out=tmp_path)

    run(None)
    with pytest.raises(fb.LocalError, match=r"holds another run; its metric: none; got scaled"):
        run(scaled)


def test_the_command_names_a_run_of_a_call(tmp_path):
    fb.federate(nn.Linear(3, 2), [(torch.randn(8, 3), torch.arange(8) % 2)], "dense", rounds=1, out=tmp_path / "run")
    for words in (["--out", tmp_path / "run"], ["--resume", tmp_path / "run"]):
        result = CliRunner().invoke(app, ["train", *map(str, words)])
        assert result.exit_code == 2
        assert "as fb.federate makes it; make the same call again" in " ".join(result.output.split())
