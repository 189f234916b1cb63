"""A model as one frame: what goes in comes out, zeros cost almost nothing, and the command line reads it."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import fewbits as fb
from fewbits.rng import Key
from fewbits.wire.frame import HEADER_BYTES
from test_cli import SMALL, call


def state(zeros: float) -> dict[str, torch.Tensor]:
    """Two layers and BatchNorm's buffers; a share of the weights is exactly zero."""
    generator = Key(3).generator()
    weight = torch.randn(300, 200, generator=generator)
    weight[torch.rand(weight.shape, generator=generator) < zeros] = 0.0
    return {
        "weight": weight,
        "scale": torch.rand(7, generator=generator, dtype=torch.float64),
        "half": torch.randn(33, generator=generator).half(),
        "batches": torch.tensor(123456789),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
    }


@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.99, 1.0])
def test_every_tensor_comes_back_bit_for_bit(tmp_path, zeros):
    before = state(zeros)
    size = fb.save_model(before, tmp_path / "model.frame")
    after = fb.load_model(tmp_path / "model.frame")
    assert (tmp_path / "model.frame").stat().st_size == size
    assert list(after) == list(before)
    for name, x in before.items():
        assert after[name].dtype == x.dtype and after[name].shape == x.shape and torch.equal(after[name], x), name


def test_zeros_cost_little_more_than_the_entropy_of_where_they_are(tmp_path):
    n, kept = 60_000, int(state(0.99)["weight"].count_nonzero())
    size = fb.save_model({"weight": state(0.99)["weight"]}, tmp_path / "model.frame")
    share = torch.tensor([kept / n, 1 - kept / n])
    support = float(-(share * share.log2()).sum()) * n / 8
    assert HEADER_BYTES + support + 3 * kept < size < HEADER_BYTES + 1.05 * support + 4 * kept + 16


def test_a_model_without_zeros_costs_no_more_than_a_dense_frame(tmp_path):
    weight = {"weight": state(0.0)["weight"]}
    assert fb.save_model(weight, tmp_path / "model.frame") <= HEADER_BYTES + 4 * 60_000 + 8


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.tensor([1.0, float("nan")]), "x has 1"),
        (torch.tensor([2**60]), "x must hold floats or integers up to 2^53"),
    ],
)
def test_what_cannot_be_saved_is_named(tmp_path, value, words):
    with pytest.raises(fb.LocalError) as error:
        fb.save_model({"x": value}, tmp_path / "model.frame")
    assert words in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_loaded_is_a_sentence(tmp_path):
    path = tmp_path / "model.frame"
    with pytest.raises(fb.LocalError, match="cannot be read"):
        fb.load_model(path)
    fb.save_model(state(0.5), path)
    note = path.with_name("model.frame.json")
    good, data = json.loads(note.read_text()), path.read_bytes()
    for bad in ([], [{}], [{"tensors": [["a"]], "integers": {}}], {"tensors": 1}):
        note.write_text(json.dumps(bad))
        with pytest.raises(fb.LocalError, match="does not describe a model"):
            fb.load_model(path)
    note.write_text(json.dumps([good[0] | {"integers": {"mask": "load"}}]))
    with pytest.raises(fb.WireError, match=r"integer tensors of type .load.; the types are bool"):
        fb.load_model(path)
    note.write_text(json.dumps(good))
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(fb.WireError, match="damaged"):
        fb.load_model(path)


def test_export_saves_the_model_of_a_run_and_inspect_reads_it(tmp_path):
    run = tmp_path / "run"
    call("train", *SMALL, "--rounds", 1, "--out", run)
    text = call("export", run)
    assert "dense frame" in text and "model.frame" in text
    model = fb.load_model(run / "model.frame")

    for name, x in load_file(run / "model.safetensors").items():
        assert torch.equal(model[name], x)
    shown = call("inspect", run / "model.frame")
    assert "codec: flat(chain(Threshold(tau=0.0), Auto()))" in shown and "Threshold" in shown
    call("train", *SMALL, "--rounds", 1, "--out", run, "--force")
    assert not (run / "model.frame").exists()  # it was the replaced run's


def test_export_says_how_much_smaller_a_sparse_model_is(tmp_path):
    save_file({"weight": state(0.95)["weight"]}, tmp_path / "model.safetensors")
    text = call("export", tmp_path, "--out", tmp_path / "small.frame")
    size = (tmp_path / "small.frame").stat().st_size
    assert f"{size:,}" in text and f"{size / (HEADER_BYTES + 240_000):.1%}" in text


def test_export_saves_one_nodes_sparse_model(tmp_path):
    """The mean of sparse models has fewer zeros than a node's own."""
    run = tmp_path / "malcom-seed0"
    call(
        *("gossip", "--data", "digits", "--nodes", 4, "--topology", "ring", "--processes", 1, "--rounds", 20),
        *("--method", "malcom", "--set", "mu=0.01", "--set", "gamma=0.3", "--out", tmp_path),
    )
    call("export", run, "--node", 2, "--out", tmp_path / "node.frame")
    call("export", run)
    with safe_open(run / "nodes.safetensors", "pt") as file:
        row = file.get_tensor("models")[2]
    model = fb.load_model(tmp_path / "node.frame")
    assert torch.equal(torch.cat([x.flatten() for x in model.values()]), row)
    assert set(model) == set(load_file(run / "model.safetensors"))
    assert int((row == 0).sum()) > len(row) // 20
    assert (tmp_path / "node.frame").stat().st_size < (run / "model.frame").stat().st_size
    assert "nodes 0..3; got 4" in call("export", run, "--node", 4, code=2)
    assert "without a server" in call("export", tmp_path, "--node", 0, code=2)


def test_export_of_no_run_is_a_sentence(tmp_path):
    assert "holds no finished run" in call("export", tmp_path, code=2)
