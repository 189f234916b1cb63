"""Tasks that people bring, each with its own loss and metric, trained by Adam on a method that compresses."""

import csv
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import fewbits as fb

EXAMPLES = Path(__file__).parents[1] / "examples"
ADAM = fb.LocalTraining(lambda p: torch.optim.Adam(p, 0.02), batch_size=20, epochs=2)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shares(*tensors, clients=4):
    return [tuple(x[c::clients] for x in tensors) for c in range(clients)]


def train(model, clients, test, **options):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = model()
    found = fb.federate(model, clients, "topk@fraction=0.25", 8, test=test, local=ADAM, **options)
    assert all(report.loss is not None for report in found.reports)
    assert found.reports[-1].loss < found.reports[0].loss
    return found


def test_regression():
    def r2(output, y):
        return 1 - ((output - y) ** 2).sum() / ((y - y.mean()) ** 2).sum()

    x = draw(400, 6)
    y = x[:, :1] * 2 - x[:, 1:2] + 0.1 * draw(400, 1, seed=1)
    found = train(lambda: nn.Linear(6, 1), shares(x, y), (x, y), loss=functional.mse_loss, metric=r2)
    assert found.accuracy is None
    assert found.metric > 0.5


def test_several_labels_per_example():
    def exact(output, y):
        return ((output > 0) == (y > 0.5)).all(1).float().mean()

    x = draw(400, 6)
    y = (x[:, :3] > 0).float()
    loss = functional.binary_cross_entropy_with_logits
    found = train(lambda: nn.Linear(6, 3), shares(x, y), (x, y), loss=loss, metric=exact)
    assert found.accuracy is None
    assert found.metric > 0.5


def test_segmentation_with_void_labels():
    class IoU:
        """Mean intersection over union of the classes, void pixels left out."""

        __name__ = "iou"

        def __call__(self, output, y):
            found, there = output.argmax(1), y != 255
            both = [((found == c) & (y == c) & there).sum() for c in range(2)]
            any_ = [(((found == c) | (y == c)) & there).sum() for c in range(2)]
            return torch.stack(both).sum() / torch.stack(any_).sum()

    x = draw(80, 1, 8, 8)
    y = (x[:, 0] > 0).long()
    y[:, 0] = 255
    loss = nn.CrossEntropyLoss(ignore_index=255)
    found = train(lambda: nn.Conv2d(1, 2, 3, padding=1), shares(x, y), (x, y), loss=loss, metric=IoU())
    assert found.accuracy == pytest.approx(1, abs=0.3)
    assert found.metric > 0.5
    assert found.reports[-1].metric_name == "iou"


def test_text_of_several_lengths():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.lstm, self.out = nn.Embedding(9, 8), nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 2)

        def forward(self, ids, lengths):
            packed = nn.utils.rnn.pack_padded_sequence(self.embedding(ids), lengths, True, enforce_sorted=False)
            return self.out(self.lstm(packed)[1][0][-1])

    def pad(rows):
        ids = nn.utils.rnn.pad_sequence([ids for ids, _ in rows], batch_first=True)
        return ids, torch.tensor([len(ids) for ids, _ in rows]), torch.tensor([y for _, y in rows])

    rows = [(torch.full((2 + i % 5,), 1 + i % 2), i % 2) for i in range(200)]
    loaders = [DataLoader(rows[c::3], batch_size=10, shuffle=True, collate_fn=pad) for c in range(3)]
    assert train(Reader, loaders, rows, collate=pad).accuracy > 0.9


def test_batch_norm():
    x = draw(400, 6) * 3 + 5
    y = (x[:, 0] > 5).long()
    model = lambda: nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))  # noqa: E731
    assert train(model, [TensorDataset(*pair) for pair in shares(x, y)], TensorDataset(x, y)).accuracy > 0.85


def test_a_table(tmp_path):
    values = draw(300, 3).numpy()
    with (tmp_path / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["height", "weight", "age", "ill", "hospital"])
        writer.writerows([*row, int(row[0] + row[1] > 0), i % 3] for i, row in enumerate(values))
    table = np.genfromtxt(tmp_path / "table.csv", delimiter=",", skip_header=1, dtype=np.float32)
    clients = [(part[:, :3], part[:, 3].astype(np.int64)) for part in (table[table[:, 4] == c] for c in range(3))]
    test = (table[:, :3], table[:, 3].astype(np.int64))
    assert train(lambda: nn.Linear(3, 2), clients, test).accuracy > 0.85


def test_a_sequence_classifier_of_hugging_face_is_compared_in_25_lines(tmp_path, monkeypatch):
    """Dict batches of several lengths, AdamW with warm-up, class weights, F1, three seeds, three methods, a page."""
    pytest.importorskip("transformers")
    source = (EXAMPLES / "sequence_classifier.py").read_text()
    code = [line for line in source.split('"""')[2].splitlines() if line.strip()]
    assert len(code) <= 25 and not any(line.startswith("class ") for line in code)
    found = runpy.run_path(str(EXAMPLES / "sequence_classifier.py"))["main"](tmp_path / "out", rounds=2)
    assert [(record.method, record.seed) for record in found.records] == [
        (method, seed) for seed in range(3) for method in ("dense", "lbgm+topk", "intrinsic@dim=500")
    ]
    assert all(0 <= report.metric <= 1 and report.metric_name == "f1" for r in found.records for report in r.reports)
    dense, topk, inside = found.rows
    assert dense.up > 5 * max(topk.up, inside.up)
    assert "f1" in found.table and found.page.is_file()
