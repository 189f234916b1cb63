"""A table whose column of numbers is predicted: scaled by the training rows, by the squared error and R2."""

import json

import numpy as np
import pytest
import torch

import fewbits as fb
from commands import call
from fewbits import data

CITIES = ("Ulm", "Bern", "Graz")


def homes(folder, rows=200, noise=2.0):
    """price = 3 area + 40 * (number of the city) + noise."""
    draw = np.random.default_rng(0)
    area, city = draw.uniform(30, 200, rows), draw.integers(0, 3, rows)
    price = 3 * area + 40 * city + noise * draw.normal(size=rows)
    lines = [f"{a},{CITIES[c]},{p}" for a, c, p in zip(area, city, price, strict=True)]
    (folder / "homes.csv").write_text("\n".join(["area,city,price", *lines]) + "\n")
    return price


def test_numbers_are_scaled_by_the_training_rows_and_the_scale_gives_them_back(folder):
    price = homes(folder)
    found = data.load("homes.csv@target=price")
    tested = np.arange(200) % 5 == 4
    assert found.classes == 1 and tuple(found.train_x.shape) == (160, 4)
    assert found.train_y.dtype == torch.float32 and tuple(found.test_y.shape) == (40, 1)
    assert abs(float(found.train_y.mean())) < 1e-5 and float(found.train_y.std(correction=0)) == pytest.approx(1)
    back = found.scale.mean + found.scale.deviation * found.test_y.double().numpy()[:, 0]
    np.testing.assert_allclose(back, price[tested], rtol=1e-4)


@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_a_regression_from_the_command_line_has_r2_and_no_accuracy(folder, model):
    homes(folder)
    task = f"--data homes.csv@target=price --model {model} --clients 4 --processes 1"
    text = call(f"train {task} --rounds 8 --lr 0.05 --out a")
    assert "note: price is predicted as (price - " in text and "r2" in text
    figures = json.loads((folder / "a/summary.json").read_text())
    assert figures["metric_name"] == "r2" and figures["metric"] > 0.97 and figures["accuracy"] is None
    page = (folder / "a/report.html").read_text()
    assert "price is predicted as" in page
    found = call("report a")
    assert "r2" in found


def test_short_names_choose_loss_and_metric_as_functions_do(folder):
    homes(folder)
    task = "--data homes.csv@target=price --model linear --clients 4 --processes 1 --rounds 2"
    call(f"train {task} --loss mae --metric mae --out a")
    call(f"train {task} --loss torch.nn.functional:l1_loss --metric fewbits.metrics:mae --out b")
    one, other = (fb.simulation.Record.read(folder / name, name, 0).last for name in "ab")
    assert one.metric == other.metric and one.loss == pytest.approx(one.metric) and one.bytes == other.bytes
    text = call(f"compare {task} --methods dense,topk --out c")
    assert "r2" in text


def test_nodes_without_a_server_predict_numbers_too(folder):
    homes(folder)
    task = "--data homes.csv@target=price --model linear --nodes 4 --topology ring"
    call(f"gossip {task} --methods dsgd --rounds 20 --out g")
    (figures,) = json.loads((folder / "g/summary.json").read_text())
    assert figures["metric_name"] == "r2" and figures["metric"] > 0.3


@pytest.mark.parametrize(
    ("data", "more", "said"),
    [
        ("homes.csv@target=city", "", "; target= takes numbers, label= classes"),
        ("homes.csv@label=city,target=price", "", "not both"),
        ("homes.csv@label=price", "", "for numbers to predict write target=COLUMN instead of label="),
        ("homes.csv@target=price", "--split classes:2", "classes:2 goes by classes, and here a number is predicted"),
        ("homes.csv@label=city", "--loss mse", "write target=COLUMN instead of label="),
        ("homes.csv@target=price", "--loss msee", "unknown name 'msee'; did you mean 'mse'?"),
        ("gap.csv@target=y", "", "column 'y' has rows without a number"),
        ("same.csv@target=y", "", "column 'y' has 0.1 in all training rows; there is nothing to predict"),
        ("homes.csv@target=city", "", "is string, such as "),
        ("far.csv@target=y", "", "column 'y' has 1e+90, and the training rows have "),
        ("far.csv@target=x", "", "column 'y' has 1e+90, and the training rows have "),
    ],
)
def test_what_cannot_be_predicted_is_said(folder, data, more, said):
    homes(folder)
    (folder / "gap.csv").write_text("x,y\n" + "1,2\n3,\n" * 5)
    (folder / "same.csv").write_text("x,y\n" + "1,0.1\n2,0.1\n" * 5)
    (folder / "far.csv").write_text("x,y\n" + "1,3\n2,4\n" * 2 + "3,1e90\n")
    assert said in call(f"train --data {data} --clients 2 {more} --out a", code=2)


def test_a_feature_that_is_constant_in_the_training_rows_stays_of_the_same_size_in_the_test_rows(folder):
    rows = [f"{0.2 if row % 5 == 4 else 0.1},{row}" for row in range(60)]
    (folder / "same.csv").write_text("\n".join(["x,y", *rows]) + "\n")
    found = data.load("same.csv@target=y")
    assert not found.train_x.any() and float(found.test_x.max()) == pytest.approx(0.1)
