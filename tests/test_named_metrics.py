"""`fb.metrics`: the figures of scikit-learn, whatever the batches and the number of processes."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, mean_absolute_error, mean_squared_error, r2_score
from torch.utils.data import DataLoader, TensorDataset

import fewbits as fb
from fewbits.errors import LocalError
from fewbits.learn.evaluation import Scores, score_batch
from fewbits.learn.outputs import default_loss

CUTS = ([60], [1, 59], [7] * 8 + [4], [20, 0, 40])


def drawn(seed):
    return torch.Generator().manual_seed(seed)


def in_batches(metric, outputs, y, cuts, loss=default_loss):
    parts = zip(outputs.split(cuts), y.split(cuts), strict=True)
    found = Scores.total(score_batch(o, t, loss, metric) for o, t in parts if len(t))
    assert not found.trouble
    return found.metric


@pytest.mark.parametrize("cuts", CUTS, ids=str)
@pytest.mark.parametrize("classes", [2, 5])
def test_f1_of_classes(classes, cuts):
    outputs = torch.randn(60, classes, generator=drawn(0))
    y = torch.randint(classes, (60,), generator=drawn(1))
    expected = f1_score(y, outputs.argmax(1), average="macro")
    assert in_batches(fb.metrics.f1, outputs, y, cuts) == pytest.approx(expected, abs=1e-12)


def test_f1_leaves_out_void_labels_of_pixels_and_absent_classes():
    outputs = torch.randn(6, 4, 3, 3, generator=drawn(0))
    outputs[:, 3] = -9  # never said
    y = torch.randint(3, (6, 3, 3), generator=drawn(1))
    y[0, 0], y[1, 1] = 255, -100
    kept = (y >= 0) & (y < 4)
    expected = f1_score(y[kept], outputs.argmax(1)[kept], average="macro")
    assert fb.metrics.f1(outputs, y).figure == pytest.approx(expected, abs=1e-12)


def test_f1_of_yes_or_no_and_of_several_labels():
    outputs, y = torch.randn(60, generator=drawn(0)), torch.randint(2, (60,), generator=drawn(1))
    for o in (outputs, outputs[:, None]):
        assert fb.metrics.f1(o, y).figure == pytest.approx(f1_score(y, outputs > 0))
        assert fb.metrics.f1(o, y.float()).figure == pytest.approx(f1_score(y, outputs > 0))
    outputs, y = outputs.reshape(20, 3), y.reshape(20, 3)
    assert fb.metrics.f1(outputs, y.float()).figure == pytest.approx(f1_score(y, outputs > 0, average="macro"))


@pytest.mark.parametrize("cuts", CUTS, ids=str)
@pytest.mark.parametrize("shape", [(60,), (60, 1), (60, 3)], ids=str)
def test_regressions(shape, cuts):
    y = 2000 + torch.randn(shape, generator=drawn(0))
    outputs = y + 0.5 * torch.randn(shape, generator=drawn(1))
    loss = torch.nn.functional.mse_loss
    ours = (fb.metrics.r2, fb.metrics.mse, fb.metrics.mae)
    for mine, theirs in zip(ours, (r2_score, mean_squared_error, mean_absolute_error), strict=True):
        expected = theirs(y.double().numpy(), outputs.double().numpy())
        assert in_batches(mine, outputs, y, cuts, loss) == pytest.approx(expected, rel=1e-6)


def test_no_figure_where_there_is_none():
    assert fb.metrics.r2(torch.ones(3), torch.ones(3)).figure is None
    assert fb.metrics.f1(torch.zeros(2, 3), torch.tensor([-100, 255])).figure is None
    with pytest.raises(LocalError, match=r"take fb\.metrics\.r2"):
        fb.metrics.f1(torch.zeros(2), torch.tensor([0.5, 2.0]))
    with pytest.raises(LocalError, match="as many outputs as targets"):
        fb.metrics.r2(torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(LocalError, match="takes a tensor of logits"):
        fb.metrics.f1({"scores": torch.zeros(2)}, torch.zeros(2))
    parts = [score_batch(torch.zeros(2, n), torch.zeros(2).long(), default_loss, fb.metrics.f1) for n in (2, 3)]
    assert Scores.total(parts).metric is None and "6 sums" in Scores.total(parts).notes[0]


def test_a_run_has_the_figure_of_the_whole_test_set():
    x = torch.randn(640, 6, generator=drawn(2))
    y = x[:, :3].argmax(1)
    parts = [(x[i:40:4], y[i:40:4]) for i in range(4)]
    test = TensorDataset(x[40:], y[40:])  # more than one piece
    found = []
    for processes, given in ((1, test), (2, test), (1, DataLoader(test, batch_size=7))):
        torch.manual_seed(0)
        model = torch.nn.Linear(6, 3)
        result = fb.federate(
            model, parts, "topk", rounds=2, test=given, metric=fb.metrics.f1, processes=processes, per_round=4
        )
        with torch.no_grad():
            expected = f1_score(y[40:], result.model(x[40:]).argmax(1), average="macro")
        found.append(result.reports[-1].metric)
        assert result.reports[-1].metric_name == "f1" and found[-1] == pytest.approx(expected, abs=1e-12)
    assert len(np.unique(found)) == 1
