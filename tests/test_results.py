"""What a call returns: bytes, history, picture, table for notebooks, and a model that loads without fewbits."""

import copy
import io
import json
import sys

import pytest
import torch
from PIL import Image
from torch import nn

import fewbits as fb

ROUNDS = 3


def task():
    draw = torch.Generator().manual_seed(0)
    xs = [torch.randn(30, 8, generator=draw) for _ in range(4)]
    *clients, test = [(x, x[:, :3].argmax(1)) for x in xs]
    return clients, test


def mlp():
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.from_numpy(fb.Key(1).fold(p.numel()).normal(p.numel())).reshape(p.shape) / 4)
    return model


def spread(output, y):
    return output.std()


def run(method="topk@fraction=0.5", **more):
    clients, test = task()
    return fb.federate(mlp(), clients, method, ROUNDS, test=test, **more)


def test_bytes_are_the_lengths_of_all_frames_of_both_directions(tmp_path):
    result = run(out=tmp_path)
    entries = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert result.bytes == sum(entry["frame_bytes"] for entry in entries) > 0
    assert {entry["direction"] for entry in entries} == {"up", "down"}


def test_history_has_a_row_per_round_with_every_figure():
    pandas = pytest.importorskip("pandas")
    result = run()
    assert isinstance(result.history, pandas.DataFrame)
    assert list(result.history["round"]) == [1, 2, 3] and result.history["bytes"].iloc[-1] == result.bytes
    assert set(fb.simulation.RoundReport.__dataclass_fields__) <= set(result.history.columns)


def test_without_pandas_history_is_a_list_of_the_same_rows(monkeypatch):
    result = run()
    frame = result.history
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert isinstance(result.history, list) and [row["round"] for row in result.history] == [1, 2, 3]
    assert result.history[-1]["up_frame_bytes"] == frame["up_frame_bytes"].iloc[-1]


def test_plot_shows_the_reports_values_against_bytes():
    result = run(metric=spread)
    for what, name in (("accuracy", "test accuracy"), ("loss", "test loss"), ("metric", "spread"), (None, None)):
        (axes,) = result.plot(what).axes
        (line,) = axes.lines
        field = what or "accuracy"
        assert list(line.get_ydata()) == [getattr(r, field) for r in result.reports]
        assert list(line.get_xdata()) == [r.up_frame_bytes + r.down_frame_bytes for r in result.reports]
        assert axes.get_ylabel() == (name or "test accuracy")
    with Image.open(io.BytesIO(result.plot()._repr_png_())) as picture:
        assert picture.size == (1200, 720)


def test_plot_without_a_value_or_matplotlib_is_a_sentence(monkeypatch):
    clients, _ = task()
    result = fb.federate(mlp(), clients, "dense", 1)
    with pytest.raises(fb.LocalError, match="no run was evaluated"):
        result.plot()
    with pytest.raises(fb.LocalError, match="no round has a metric"):
        result.plot("metric")
    with pytest.raises(fb.LocalError, match="what must be one of"):
        result.plot("bytes")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(fb.LocalError, match=r"pip install 'fewbits\[report\]'"):
        run().plot()


def test_a_notebook_shows_the_figures_and_notes_escaped():
    result = run()
    result.notes.extend([f"<script>alert({i})</script>" for i in range(7)])
    html = result._repr_html_()
    assert f"{result.accuracy:.2%}" in html and f"{result.loss:.4g}" in html and ">3</td>" in html
    assert "<script" not in html and html.count("&lt;script&gt;") == 5 and "... and 2 more in notes" in html


def test_a_printed_result_is_its_figures_in_a_line_and_its_first_notes():
    result = run()
    result.notes.extend(f"note {i}" for i in range(7))
    line, *notes = str(result).splitlines()
    assert repr(result) == str(result) and len(line) <= 80
    assert line.startswith(f"rounds 3, accuracy {result.accuracy:.2%}, test loss {result.loss:.4g}, MB up ")
    assert notes == [*(f"note {i}" for i in range(5)), "... and 2 more in notes"]


def test_a_comparison_has_them_too():
    pandas = pytest.importorskip("pandas")
    clients, test = task()
    found = fb.compare(mlp(), clients, ["dense", "a<b=topk"], seeds=[0, 1], rounds=ROUNDS, test=test)
    history = found.history
    assert isinstance(history, pandas.DataFrame) and list(history.columns[:3]) == ["method", "seed", "round"]
    assert len(history) == 2 * 2 * ROUNDS and set(history["method"]) == {"dense", "a<b"}
    assert [line.get_label() for line in found.plot("loss").axes[0].lines] == ["dense", "a<b"]
    html = found._repr_html_()
    assert "a&lt;b" in html and "<b" not in html and "MB up" in html


@pytest.mark.parametrize("method", ["dense", "intrinsic@dim=20", "fedper", "local", "scaffold"])
def test_the_model_is_plain_and_its_state_loads_into_a_fresh_one(method):
    result = run(method)
    fresh = mlp()
    fresh.load_state_dict(copy.deepcopy(result.model.state_dict()))
    x = task()[1][0]
    assert torch.equal(fresh(x), result.model(x)) and type(result.model[0]) is nn.Linear


@pytest.mark.parametrize("method", ["fedpara", "lowrank", "pfedpara"])
def test_a_factored_model_is_plain_after_merge(method):
    result = run(method)
    assert any("parametrizations" in name for name in result.model.state_dict())
    fresh = mlp()
    fresh.load_state_dict(fb.merge(result.model).state_dict())
    x = task()[1][0]
    assert torch.allclose(fresh(x), result.model(x), atol=1e-6)
