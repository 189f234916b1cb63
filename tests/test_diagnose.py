"""Diagnosis: ranks and cosines against dense oracles, subspaces against autograd, rules on made-up figures."""

import json
import math
import re
import shlex
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from typer.testing import CliRunner

from digits_task import digits, mlp
from fewbits.analysis.diagnosis import (
    Central,
    Directions,
    Point,
    advise,
    components,
    cosines,
    diagnose,
    gram,
    growth,
    intrinsic_dimension,
    isotropy,
    recycled,
    spectrum,
    top_energy,
    train_in,
)
from fewbits.analysis.diagnosis.central import Accumulator
from fewbits.analysis.diagnosis.diagnose import trainings
from fewbits.analysis.diagnosis.rules import comparison, first_choice
from fewbits.cli.app import app
from fewbits.cli.comparison import Comparison
from fewbits.cli.config import RunConfig
from fewbits.codecs import Basis
from fewbits.errors import LocalError
from fewbits.learn import FlatModel, LocalSGD
from fewbits.methods.catalogue import options
from fewbits.methods.text import read_all
from fewbits.report.diagnosis import figure, report
from fewbits.report.write import write
from fewbits.rng import Key
from web_page import Outside

KEY = Key(3)


def normal(*shape, name="rows"):
    return torch.from_numpy(KEY.fold(name).normal(math.prod(shape))).reshape(shape)


def central(epochs=2, batch_size=50, **sgd):
    x, y = digits()
    local = LocalSGD(**{"lr": 0.1, "batch_size": batch_size} | sgd)
    return Central(x[:300], y[:300], x[1500:1700], y[1500:1700], local, epochs, KEY)


@pytest.fixture(scope="module")
def found():
    return diagnose(mlp(), central(3), [8, 4, 64, 8], KEY, blocks=2)


# Gradients


def test_the_spectrum_is_that_of_a_singular_value_decomposition():
    rows = normal(7, 300) * torch.tensor([9.0, 5, 3, 1, 0.5, 0.1, 0.01])[:, None]
    squares = np.linalg.svd(rows.double().numpy(), compute_uv=False) ** 2
    np.testing.assert_allclose(spectrum(gram(rows)), squares / squares.sum(), rtol=1e-9, atol=1e-15)


def test_inner_products_do_not_depend_on_the_chunks(monkeypatch):
    rows = normal(5, 1000)
    whole = gram(rows)
    monkeypatch.setattr("fewbits.analysis.diagnosis.gradients.CHUNK", 64)
    np.testing.assert_allclose(gram(rows), whole, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(whole, rows.double().numpy() @ rows.double().numpy().T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 5, 12])
def test_gradients_of_known_rank_have_so_many_components(rank):
    directions = torch.linalg.qr(normal(200, rank, name="basis").double())[0].T  # orthonormal
    equal = directions.repeat(-(-12 // rank), 1)[: 12 // rank * rank]
    assert components(spectrum(gram(equal)), 0.99) == rank
    mixed = (normal(20, rank).double() @ directions).float()
    assert components(spectrum(gram(mixed)), 1.0) == rank
    assert len([share for share in spectrum(gram(mixed)) if share > 1e-9]) == rank


def test_a_share_that_is_reached_exactly_counts():
    shares = np.full(20, 0.05)
    assert components(shares, 0.95) == 19 and components(shares, 0.99) == 20 and components(shares, 0.05) == 1


def test_zero_gradients_have_no_component_and_are_similar_to_none():
    products = gram(torch.zeros(3, 5))
    assert components(spectrum(products), 0.99) == 0 and not cosines(products).any()
    assert recycled(cosines(products), 0.2) == 0 and top_energy(torch.zeros(3, 5), 0.5) == 0


def test_cosines_are_those_of_the_vectors():
    rows = normal(6, 40)
    expected = torch.nn.functional.cosine_similarity(rows[:, None].double(), rows[None].double(), dim=2).numpy()
    np.testing.assert_allclose(cosines(gram(rows)), expected, atol=1e-9)


def test_growth_counts_the_components_so_far():
    rows = torch.eye(4)[[0, 0, 1, 2]]
    assert growth(gram(rows)) == ((1, 1), (1, 1), (2, 2), (3, 3))


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 1.0])
def test_recycling_follows_lbgms_rule_on_the_vectors(threshold):
    rows = torch.cumsum(normal(30, 12), 0).double()  # a drifting direction
    scalars, full = 0, None
    for g in rows:
        if full is not None and 1 - float(g @ full) ** 2 / float((g @ g) * (full @ full)) <= threshold:
            scalars += 1
        else:
            full = g
    assert recycled(cosines(gram(rows)), threshold) == pytest.approx(scalars / 30)


def test_top_energy_is_the_share_of_the_largest_squares():
    rows = torch.tensor([[3.0, 0, 0, -1], [1, 1, 1, 1], [0, 0, 0, 0]])
    assert top_energy(rows, 0.25) == pytest.approx((0.9 + 0.25) / 2)
    assert top_energy(rows, 1.0) == pytest.approx(1)
    assert 0.27 < top_energy(normal(3, 20_000), 0.05) < 0.29  # the figure that the rule for top-k is set against


def test_impossible_gradients_and_shares_are_sentences():
    for wrong, words in (
        (lambda: gram(torch.zeros(4)), "rows of a matrix"),
        (lambda: gram(torch.tensor([[1.0, math.nan]])), "not finite"),
        (lambda: components(np.ones(3), 0.0), "above 0"),
        (lambda: top_energy(torch.ones(1, 3), 1.5), "at most 1"),
    ):
        with pytest.raises(LocalError, match=words):
            wrong()


def test_accumulated_gradients_are_what_the_model_moved_by():
    task, model = central(2, lr=0.05), FlatModel(mlp())
    start, kept = model.vector(), Accumulator(len(model.params), 2, task.steps, 3)
    task.train(model, kept)
    torch.testing.assert_close(kept.rows.sum(0) * 0.05, start - model.vector(), atol=1e-6, rtol=1e-4)
    assert len(kept.rows) == 6 and bool((kept.rows.norm(dim=1) > 0).all())


def test_blocks_of_an_epoch_add_up_to_it(found):
    whole = diagnose(mlp(), central(3), [4], KEY, blocks=1)
    np.testing.assert_allclose(whole.epoch.cosines, found.epoch.cosines, atol=1e-6)
    np.testing.assert_allclose(whole.block.cosines, whole.epoch.cosines)
    assert len(found.block.cosines) == 6 and whole.accuracy == found.accuracy


def test_what_cannot_be_kept_is_refused():
    with pytest.raises(LocalError, match="no 7 blocks; give 1 to 6"):
        Accumulator(10, 1, 6, 7)
    with pytest.raises(LocalError, match="fewer epochs or blocks"):
        Accumulator(10**9, 1, 6, 2)
    with pytest.raises(LocalError, match="fewer epochs or blocks"):
        Accumulator(10, 1001, 6, 1)
    with pytest.raises(LocalError, match="epochs >= 1"):
        central(0)


# Subspaces


@pytest.mark.parametrize("kind", ["fastfood", "hadamard"])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_training_in_a_subspace_is_training_its_coordinates(kind, momentum):
    """The oracle: theta = theta0 + A s with a dense A, the gradient of s by autograd, a step by torch's optimiser."""
    task = central(1, momentum=momentum)
    model, plain = FlatModel(mlp(4)), mlp(4)
    basis = Basis(len(model.params), 8, KEY, kind)
    point = train_in(basis, model, task)
    a = torch.stack([basis.expand(unit) for unit in torch.eye(8)], 1)  # (D, d)
    start, s = model.vector(), torch.zeros(8, requires_grad=True)
    optimiser = torch.optim.SGD([s], lr=point.lr, momentum=momentum)
    for rows in task.sgd.batches(np.arange(300), KEY.fold("epoch", 0)):
        parts = (start + a @ s).split([p.numel() for p in plain.parameters()])
        named = {n: part.view_as(p) for (n, p), part in zip(plain.named_parameters(), parts, strict=True)}
        loss = cross_entropy(functional_call(plain, named, task.train_x[rows]), task.train_y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.load_vector((start + a @ s).detach())
    assert point.loss == pytest.approx(cross_entropy(model.module(task.train_x), task.train_y).item(), rel=1e-3)
    assert point.accuracy == pytest.approx(task.accuracy(model), abs=0.01)


def test_the_subspace_of_everything_is_full_training():
    task, model = central(), FlatModel(mlp(4))
    point = train_in(Basis(len(model.params), len(model.params), KEY, "hadamard"), model, task)
    assert task.train(model) == pytest.approx(point.loss, rel=1e-4)
    assert point.accuracy == pytest.approx(task.accuracy(model), abs=0.01) and point.lr == 0.1


def test_of_the_rates_tried_the_least_loss_counts_and_the_model_is_left_alone():
    model = FlatModel(mlp())
    before, basis = model.vector(), Basis(len(model.params), 16, KEY)
    point = train_in(basis, model, central())
    ratio = len(before) / 16
    assert any(point.lr == pytest.approx(0.1 * factor) for factor in (1, ratio**0.5, ratio))
    slow = replace(central(), sgd=LocalSGD(lr=1e-4, batch_size=50))
    assert point.loss < train_in(basis, model, slow).loss
    assert torch.equal(model.vector(), before)


def test_divergence_is_a_sentence():
    model = FlatModel(mlp())
    with pytest.raises(LocalError, match="8 directions diverged"):
        train_in(Basis(len(model.params), 8, KEY), model, central(lr=1e20))
    with pytest.raises(LocalError, match="training diverged with lr"):
        diagnose(mlp(), central(lr=1e20), [8], KEY)


def test_isotropy_is_the_share_of_g_that_is_held_over_the_expected_one():
    basis, g = Basis(500, 20, KEY, scale="unbiased"), normal(500)
    a = torch.stack([basis.expand(unit) for unit in torch.eye(20)], 1) / basis.gain
    assert isotropy(basis, g) == pytest.approx(500 / 20 * float((a.T @ g).square().sum() / g.square().sum()), rel=1e-4)
    assert isotropy(basis, torch.zeros(500)) == 0
    many = [isotropy(Basis(500, 20, KEY.fold(i)), g) for i in range(200)]
    assert np.mean(many) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("scale", ["orthonormal", "unbiased"])
def test_an_effective_step_is_what_is_left_along_g_on_average(scale):
    g, left = normal(500), []
    for i in range(200):
        basis = Basis(500, 20, KEY.fold(i), "hadamard", scale)
        left.append(0.1 * float(g @ basis.expand(basis.project(g))) / float(g @ g))
    expected = Basis(500, 20, KEY, scale=scale).effective_step(0.1)
    assert expected == pytest.approx(0.1 * 20 / 500 if scale == "orthonormal" else 0.1)
    assert np.mean(left) == pytest.approx(expected, rel=0.1)


def curve(*accuracies):
    return [Point(2**i, accuracy, 1.0, 0.1, 1.0) for i, accuracy in enumerate(accuracies)]


def test_the_intrinsic_dimension_is_the_first_to_reach_its_share():
    points = curve(0.1, 0.5, 0.85, 0.72, 0.95)
    assert intrinsic_dimension(points, 0.9) == 4  # 0.85 >= 0.81, though the next falls below
    assert intrinsic_dimension(points, 1.0) == 16 and intrinsic_dimension(points, 0.95, 1.0) == 16
    assert intrinsic_dimension(points, 1.0, 0.99) is None and intrinsic_dimension([], 1.0) is None
    assert intrinsic_dimension(points[::-1], 0.9) == 4


# All together


def test_a_diagnosis_leaves_the_model_trained_and_torch_as_it_was(found):
    module, task, threads = mlp(), central(3), torch.get_num_threads()
    names = []
    again = diagnose(module, task, [8, 4, 64], KEY, blocks=2, watch=names.append)
    assert again == found and torch.get_num_threads() == threads
    assert [point.dim for point in found.points] == [4, 8, 64]
    assert task.accuracy(FlatModel(module)) == found.accuracy > 0.3
    size = sum(p.numel() for p in module.parameters())
    assert found.parameters == size and len(names) == 3 * trainings([8, 4, 64], size) == 30
    assert trainings([size], size) == 2


def made_up(**changes):
    directions = Directions(2, 7, 9, 15, (1.0,), ((1.0,),), 0.7, 0.1, 0.2)
    few = diagnose(mlp(4), central(1), [4], KEY, blocks=1)
    fields = {"parameters": 10_000, "epochs": 20, "epoch": directions, "accuracy": 0.9, "d90": 100, "d99": 1000}
    return replace(few, **fields | {"top_energy": 0.5} | changes)


def test_the_rules_go_by_their_thresholds():
    def fits(**changes):
        return {advice.method: advice.fits for advice in advise(made_up(**changes))}

    assert fits() == {"intrinsic+deadzone": True, "lbgm+topk": True, "topk": True}
    wide = replace(made_up().epoch, n99=11)
    assert fits(epoch=wide)["lbgm+topk"] is False and fits(epoch=replace(wide, n99=10))["lbgm+topk"] is True
    assert fits(epochs=7)["lbgm+topk"] is False
    assert fits(d99=4942)["intrinsic+deadzone"] is True and fits(d99=4943)["intrinsic+deadzone"] is False
    assert fits(d99=None, d90=None)["intrinsic+deadzone"] is False
    assert fits(top_energy=0.39)["topk"] is False
    none = {"intrinsic+deadzone": False, "lbgm+topk": False, "topk": False, "deadzone": True}
    assert fits(epoch=wide, d99=None, d90=None, top_energy=0.3) == none


def test_a_tiny_model_is_not_advised_a_subspace_that_only_saves_numbers():
    """Of its messages the header is the most."""
    tiny = made_up(parameters=130, d99=32)
    assert tiny.parameters / 32 > 4 and not advise(tiny)[0].fits


def test_what_is_advised_is_the_first_that_fits():
    def point(dim):
        return Point(dim, 0.85, 0.1, 0.1, 1.0)

    wide = replace(made_up().epoch, n99=11)
    first = [
        first_choice(found, advise(found))
        for found in (
            made_up(),
            made_up(d99=None, points=(point(100), point(400))),
            made_up(d99=None, d90=None),
            made_up(d99=None, d90=None, epoch=wide),
            made_up(d99=None, d90=None, epoch=wide, top_energy=0.3),
        )
    ]
    assert first == [
        "intrinsic+deadzone@dim=1000,bits=1,down=own1",
        "intrinsic+deadzone@dim=400,bits=1,down=own1",
        "lbgm+topk@down=own1",
        "topk@down=own1",
        "deadzone@bits=1,down=own1",
    ]


def test_what_is_compared_is_a_comparison_with_dense_and_top_k():
    found = made_up(d99=None, d90=None, top_energy=0.3)
    assert comparison(found, advise(found)) == "dense,topk@down=own1,lbgm+topk@down=own1"
    found = made_up()
    names = comparison(found, advise(found))
    runs = Comparison(RunConfig(), tuple(map(str, read_all(names, options))), (0,)).runs()
    assert [run.method for run in runs.values()] == ["dense", "topk", "intrinsic+deadzone", "lbgm+topk"]


# The report


def test_the_page_is_self_contained_and_escapes_text(tmp_path, found):
    assert write(tmp_path, report(found, advise(found), {"model": "<i>", "data": "a & b"}, "x <b>")) == []
    text = (tmp_path / "diagnose.html").read_text()
    parser = Outside()
    parser.feed(text)
    assert parser.fetched == [] and not re.search(r"https?:|@import|url\(", text)
    assert not {"script", "i", "b", "link"} & set(parser.tags)
    assert parser.tags.count("img") == 1 and parser.tags.count("source") == 1 and "a &amp; b" in text
    with Image.open(tmp_path / "diagnose.png") as picture:
        assert picture.size == (1200, 1110)


def test_without_matplotlib_everything_else_is_written(tmp_path, found, monkeypatch):
    (tmp_path / "diagnose.png").write_bytes(b"of an earlier one")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    (note,) = write(tmp_path, report(found, advise(found), {"model": "mlp", "data": "digits"}, "x"))
    assert "fewbits[report]" in note and not (tmp_path / "diagnose.png").exists()
    assert "<img" not in (tmp_path / "diagnose.html").read_text()


def test_unreached_dimensions_have_a_picture_and_a_page(found):
    never = replace(found, d90=None, d99=None, blocks=1)
    assert figure.png(never).startswith(b"\x89PNG")
    parts = [
        part
        for section in report(never, advise(never), {"model": "m", "data": "d"}, "").sections
        for part in section.parts
    ]
    assert "is not reached by 64 directions" in "".join(parts)


# The command

SMALL = ["--epochs", "2", "--dims", "4,16", "--limit", "400", "--blocks", "2"]


def call(*arguments, code=0):
    """The command's output, stdout and stderr."""
    result = CliRunner().invoke(app, ["diagnose", *map(str, arguments)], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diagnose") / "out"
    call(*SMALL, "--out", folder)
    return folder


def test_the_command_leaves_figures_picture_and_page(folder):
    assert {path.name for path in folder.iterdir()} == {"diagnose.json", "diagnose.png", "diagnose.html"}
    figures = json.loads((folder / "diagnose.json").read_text())
    assert figures["config"] == {
        "model": "mlp",
        "data": "digits",
        "limit": 400,
        "epochs": 2,
        "blocks": 2,
        "dims": [4, 16],
        "basis": "fastfood",
        "lr": 0.1,
        "momentum": 0.0,
        "batch_size": 32,
        "seed": 0,
    }
    assert figures["diagnosis"]["parameters"] == 9610 and len(figures["diagnosis"]["block"]["cosines"]) == 4
    assert [point["dim"] for point in figures["diagnosis"]["points"]] == [4, 16]
    assert [advice["method"] for advice in figures["advice"]][:3] == ["intrinsic+deadzone", "lbgm+topk", "topk"]


def test_the_same_seed_gives_the_same_figures_and_another_does_not(folder, tmp_path):
    before = (folder / "diagnose.json").read_bytes()
    output = call(*SMALL, "--out", tmp_path / "new" / "place")
    assert "How many random directions are enough" in output and "fewbits compare --methods dense,topk@" in output
    assert (tmp_path / "new" / "place" / "diagnose.json").read_bytes() == before
    call(*SMALL, "--seed", 1, "--out", tmp_path / "other")
    other = json.loads((tmp_path / "other" / "diagnose.json").read_text())
    assert other["diagnosis"]["points"] != json.loads(before)["diagnosis"]["points"]


def test_a_folder_that_is_taken_is_refused_unless_forced(folder, tmp_path):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "--force" in call(*SMALL, "--out", folder, code=2)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    call(*SMALL, "--seed", 1, "--out", folder, "--force")
    assert (folder / "diagnose.json").read_bytes() != before["diagnose.json"]
    (folder / "diagnose.json").write_bytes(before["diagnose.json"])
    (tmp_path / "thesis.txt").write_text("mine")
    assert "no diagnosis" in call(*SMALL, "--out", tmp_path, "--force", code=2)
    assert "is a file" in call(*SMALL, "--out", tmp_path / "thesis.txt", code=2)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--model", "gpt"], "unknown model 'gpt'; choose one of mlp"),
        (["--data", "svhn"], "unknown data set 'svhn'; choose one of digits"),
        (["--model", "charlstm"], "takes text"),
        (["--dims", "4,many"], "whole numbers separated by commas"),
        (["--dims", "0"], "1 or more"),
        (["--dims", "9611"], "9610 parameters have no subspace"),
        (["--dims", ""], "one dimension or more"),
        (["--basis", "fourier"], "must be one of fastfood"),
        (["--blocks", "99"], "no 99 blocks"),
        (["--epochs", "0"], "epochs >= 1"),
        (["--epochs", "2000"], "fewer epochs"),
        (["--lr", "-1"], "lr must be a finite number above 0; got -1.0"),
        (["--lr", "1e20"], "smaller learning rate"),
        (["--lr", "inf"], "lr must be a finite number above 0; got inf"),
        (["--limit", "0"], "limit must be a whole number, 1 or more"),
        (["--data", "mnist", "--data-dir", "/nowhere"], "no folder /nowhere"),
    ],
)
def test_a_mistake_is_a_sentence(tmp_path, wrong, words):
    assert words in call(*SMALL, *wrong, "--out", tmp_path / "out", code=2)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_the_printed_commands_run(tmp_path, monkeypatch):
    """As they stand, but for their length."""
    monkeypatch.chdir(tmp_path)
    output = call("--limit", 300, "--epochs", 3, "--dims", 1024, "--seed", 3, "--out", "diagnosis")
    advised, compared = re.findall(r"^(?:try first|measure it): fewbits (.*)$", output, re.MULTILINE)
    assert "intrinsic+deadzone@dim=1024" in advised and "intrinsic+deadzone@dim=1024" in compared
    for command in (advised, compared):
        words = shlex.split(command.replace("--rounds 50", "--rounds 1"))
        result = CliRunner().invoke(app, [*words, "--processes", "1"])
        assert result.exit_code == 0, result.output
    configs = [tmp_path / "runs" / folder for folder in ("advised", "compare")]
    assert all((folder / "report.html").exists() for folder in configs)


def test_a_place_is_asked_for():
    assert "--out" in call(*SMALL, code=2)


def test_the_defaults_fit_a_task_of_few_steps(tmp_path):
    call("--epochs", 1, "--limit", 40, "--dims", 4, "--batch-size", 0, "--out", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "diagnose.json").read_text())["config"]["blocks"] == 1
