"""Observers: told of every run and round, and what they raise ends no run; adapters against modules like the real."""

import gc
import sys
from types import ModuleType

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import fewbits as fb
from fewbits.cli.app import app
from fewbits.trackers.values import values

Observer = fb.simulation.Observer


def task():
    clients = [(torch.eye(4), torch.arange(4)) for _ in range(3)]
    model = nn.Linear(4, 4)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model, clients


def run(rounds=2, **more):
    model, clients = task()
    return fb.federate(model, clients, "topk@fraction=0.5", rounds, test=clients[0], **more)


class Heard(Observer):
    """Keeps what it is told."""

    def __init__(self):
        self.told = []

    def on_start(self, name, config, folder):
        self.told.append(("start", name, config["seed"], folder))

    def on_round(self, report):
        self.told.append(("round", report.round))

    def on_end(self, result):
        self.told.append(("end", None if result is None else len(result.reports)))


class Fails(Observer):
    """Raises where it is told to."""

    def __init__(self, *at):
        self.at = at

    def on_start(self, name, config, folder):
        self._reach("start")

    def on_round(self, report):
        self._reach("round")

    def on_end(self, result):
        self._reach("end")

    def _reach(self, place):
        if place in self.at:
            raise ConnectionError(f"no network at {place}")


def test_an_observer_hears_of_the_start_each_round_and_the_end(tmp_path):
    heard = Heard()
    result = run(log=[heard], out=tmp_path / "a", seed=3)
    start = ("start", "topk@fraction=0.5-seed3", 3, tmp_path / "a")
    assert heard.told == [start, ("round", 1), ("round", 2), ("end", 2)] and result.notes == []
    again = Heard()
    run(rounds=3, log=[again], out=tmp_path / "a", seed=3)
    assert again.told == [start, ("round", 3), ("end", 3)]  # a continued run: what is new
    run(rounds=3, log=[nothing := Heard()], out=tmp_path / "a", seed=3)
    assert nothing.told == []  # no round is left


def test_a_comparison_tells_of_each_run_in_turn(tmp_path):
    model, clients = task()
    heard, seen = Heard(), []
    fb.compare(
        *(model, clients, ["dense", "a=topk"], [0, 1], 1),
        log=[heard],
        out=tmp_path / "c",
        watch=lambda *x: seen.append(x[:2]),
    )
    starts = [told[1] for told in heard.told if told[0] == "start"]
    assert starts == ["dense-seed0", "a-seed0", "dense-seed1", "a-seed1"] and len(heard.told) == 12
    assert seen == [("dense", 0), ("a", 0), ("dense", 1), ("a", 1)]


def test_an_observer_changes_no_byte():
    assert run(log=[Heard(), Fails("round")]).bytes == run().bytes


def test_what_it_raises_in_a_round_is_noted_once_and_the_run_goes_on():
    heard = Heard()
    result = run(rounds=3, log=[Fails("round", "end"), heard])
    (note,) = result.notes
    assert "log: Fails failed at round 1, and the run went on: ConnectionError: no network at round" in note
    assert len(result.reports) == 3 and heard.told[-1] == ("end", 3)
    model, clients = task()
    found = fb.compare(model, clients, ["dense"], [0, 1], 1, log=[Fails("end")])
    assert sum("failed at the end" in note for note in found.notes) == 2


def test_what_it_raises_at_the_start_is_a_sentence_before_round_1():
    heard = Heard()
    with pytest.raises(fb.LocalError, match="log: Fails could not start: ConnectionError: no network at start"):
        run(log=[heard, Fails("start")])
    assert [told[0] for told in heard.told] == ["start", "end"] and heard.told[-1] == ("end", None)


def test_a_run_that_raises_ends_its_observers():
    def stop(report):
        raise KeyboardInterrupt

    heard = Heard()
    with pytest.raises(KeyboardInterrupt):
        run(log=[heard], watch=stop)
    assert heard.told[1:] == [("round", 1), ("end", None)]


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("tensorboard", "log is a list of names"),
        ([print], "log is a list of names.*print"),
        ([Observer], "log is a list of names"),
        (["tensorbord"], "did you mean 'tensorboard'"),
        (["tensorboard"], "give out=..., or a folder"),
    ],
)
def test_a_wrong_log_is_a_sentence(log, said):
    with pytest.raises(fb.LocalError, match=said):
        run(log=log)


@pytest.mark.parametrize(
    ("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb"), ("mlflow", "mlflow")]
)
def test_a_tracker_that_is_not_installed_is_a_sentence(name, module, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(fb.LocalError, match=rf"log: {name} is not installed.*pip install 'fewbits\[trackers\]'"):
        run(log=[name], out=tmp_path / "a")
    assert not (tmp_path / "a").exists()


class Writer:
    """The part of TensorBoard's SummaryWriter that is used."""

    made = []

    def __init__(self, folder):
        self.folder, self.calls, self.texts = folder, [], []
        self.made.append(self)

    def add_scalar(self, tag, value, step):
        self.calls.append((tag, value, step))

    def add_text(self, tag, text):
        self.texts.append(text)

    def flush(self):
        pass

    def close(self):
        self.calls.append("closed")


def fake(monkeypatch, path, **members):
    module = ModuleType(path)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, path, module)


def test_tensorboard_gets_every_figure_by_round_and_the_accuracy_by_bytes(monkeypatch, tmp_path):
    fake(monkeypatch, "torch.utils.tensorboard", SummaryWriter=Writer)
    monkeypatch.setattr(Writer, "made", [])
    result = run(log=["tensorboard", f"tensorboard:{tmp_path / 'b'}"], out=tmp_path / "a")
    own, given = Writer.made
    assert (own.folder, given.folder) == (str(tmp_path / "a/tensorboard"), str(tmp_path / "b/topk@fraction=0.5-seed0"))
    last = result.reports[-1]
    expected = {(name, value, 2) for name, value in values(last).items()}
    expected |= {(f"by_bytes/{name}", getattr(last, name), result.bytes) for name in ("accuracy", "loss")}
    first = 2 + len(values(result.reports[0]))
    assert set(own.calls[first:-1]) == expected and own.calls[-1] == "closed" and '"seed": 0' in own.texts[0]


def test_wandb_gets_a_run_for_each_run(monkeypatch):
    class Run:
        def log(self, figures, step):
            calls.append((step, figures))

        def finish(self, exit_code):
            calls.append(("finish", exit_code))

    calls = []
    fake(monkeypatch, "wandb", init=lambda **given: calls.append(given) or Run())
    result = run(log=["wandb:mine"])
    given, *rounds, end = calls
    assert (given["project"], given["name"], given["config"]["clients"]) == ("mine", "topk@fraction=0.5-seed0", 3)
    assert rounds == [(r.round, values(r)) for r in result.reports] and end == ("finish", 0)


def test_mlflow_gets_parameters_and_metrics(monkeypatch):
    calls = []

    def keep(name):
        return lambda *args, **more: calls.append((name, *args, *more.values()))

    names = ("set_experiment", "start_run", "log_params", "log_metrics", "end_run")
    fake(monkeypatch, "mlflow", **{name: keep(name) for name in names})
    result = run(log=["mlflow:mine"])
    assert calls[:2] == [("set_experiment", "mine"), ("start_run", "topk@fraction=0.5-seed0", True)]
    assert calls[2][1]["seed"] == "0" and calls[-1] == ("end_run", "FINISHED")
    assert calls[3:-1] == [("log_metrics", values(r), r.round) for r in result.reports]


def test_figures_are_finite_numbers_without_the_round():
    (report,) = run(rounds=1).reports
    found = values(report)
    assert found["bytes"] == report.up_frame_bytes + report.down_frame_bytes and found["diverged"] == 0.0
    assert "round" not in found and "notes" not in found and "epsilon" not in found


@pytest.mark.filterwarnings("ignore")
def test_the_real_tensorboard_writes_what_its_reader_reads(tmp_path):
    from tensorboard.backend.event_processing import event_accumulator as reader

    result = run(log=["tensorboard"], out=tmp_path)
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(e.step, round(e.value, 5)) for e in events.Scalars("accuracy")]
    assert found == [(r.round, round(r.accuracy, 5)) for r in result.reports]
    assert [e.step for e in events.Scalars("by_bytes/accuracy")][-1] == result.bytes


@pytest.mark.filterwarnings("ignore")
def test_the_real_wandb_runs_offline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")  # else it reports its own errors over the network
    import wandb

    result = run(log=["wandb:mine"])
    wandb.teardown()  # its process ends
    gc.collect()  # what it left open warns here
    assert result.notes == []
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    content = file.read_bytes()
    assert b"topk@fraction=0.5-seed0" in content and content.count(b"up_frame_bytes") >= len(result.reports)


@pytest.mark.filterwarnings("ignore")
def test_the_real_mlflow_runs_offline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database takes two seconds to make
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    mlflow.set_tracking_uri(f"file://{tmp_path}/runs")
    result = run(log=["mlflow:mine"])
    gc.collect()  # what it left open warns here
    assert result.notes == [] and mlflow.active_run() is None
    (found,) = mlflow.search_runs(experiment_names=["mine"], output_format="list")
    assert (found.info.run_name, found.info.status) == ("topk@fraction=0.5-seed0", "FINISHED")
    assert found.data.params["clients"] == "3" and found.data.params["rounds"] == "2"
    history = mlflow.MlflowClient().get_metric_history(found.info.run_id, "accuracy")
    assert [(m.step, m.value) for m in history] == [(r.round, r.accuracy) for r in result.reports]


def test_the_commands_take_log_also_with_resume(tmp_path, monkeypatch):
    fake(monkeypatch, "torch.utils.tensorboard", SummaryWriter=Writer)
    monkeypatch.setattr(Writer, "made", [])
    small = ["--data", "digits", "--clients", "2", "--processes", "1", "--log", "tensorboard"]
    out = tmp_path / "a"
    assert CliRunner().invoke(app, ["train", *small, "--rounds", "1", "--out", str(out)]).exit_code == 0
    more = ["--resume", str(out), "--rounds", "2", "--log", "tensorboard"]
    assert CliRunner().invoke(app, ["train", *more]).exit_code == 0
    assert [[c[2] for c in w.calls if c[0] == "accuracy"] for w in Writer.made] == [[1], [2]]
    both = ["compare", "--methods", "dense,topk", *small, "--rounds", "1", "--out", str(tmp_path / "c")]
    assert CliRunner().invoke(app, both).exit_code == 0
    folders = [w.folder for w in Writer.made[2:]]
    assert folders == [str(tmp_path / "c" / name / "tensorboard") for name in ("dense-seed0", "topk-seed0")]
