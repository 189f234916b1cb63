"""Accuracy only where it means something, a metric of the user's everywhere, and one batch before the first round."""

import copy
import json
import random
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fewbits as fb
from fewbits.engines.common.first_batch import check_first_batch
from fewbits.learn.evaluation import Scores, evaluate, score
from fewbits.learn.local import backward
from fewbits.learn.metrics import count_right, ignored, measure, metric_name
from fewbits.learn.outputs import check_cross_entropy, cross_entropy, logits

LOCAL = fb.LocalSGD(lr=0.05)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = draw(24, 8)
Y = X[:, :4].argmax(1)


def linear(outputs=4):
    model = nn.Linear(8, outputs)
    with torch.no_grad():
        model.weight.copy_(draw(outputs, 8, seed=1) / 4)
        model.bias.zero_()
    return model


def train(model, target=Y, x=X, rounds=1, **options):
    pairs = [(x, target)] * 3
    return fb.federate(model, pairs, "dense", rounds, **{"test": (x, target), "local": LOCAL} | options)


def absolute(outputs, targets):
    return (logits(outputs) - targets).abs().mean()


def right(outputs, targets):
    return (logits(outputs).argmax(1) == targets).sum(), len(targets)


# --- accuracy


def counted_dumbly(outputs, targets, void):
    """One position at a time."""
    found = outputs.movedim(1, -1).reshape(-1, outputs.shape[1]).tolist()
    pairs = [(row.index(max(row)), label) for row, label in zip(found, targets.reshape(-1).tolist(), strict=True)]
    there = [(guess, label) for guess, label in pairs if label >= 0 and label not in void and label < len(found[0])]
    return sum(guess == label for guess, label in there), len(there)


@pytest.mark.parametrize("shape", [(9, 5), (6, 3, 7), (4, 6, 3, 5), (3, 2, 2, 3, 2)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
@pytest.mark.parametrize("void", [None, 0, 255, -100])
def test_accuracy_counts_every_target_that_is_a_class(shape, dtype, void):
    outputs = draw(*shape)
    targets = (draw(shape[0], *shape[2:], seed=2).abs() * 2).long() % shape[1]
    if void is not None and not (dtype == torch.uint8 and void < 0):
        targets[::2] = void
    loss = cross_entropy if void in (None, -100) else partial(F.cross_entropy, ignore_index=void)
    expected = counted_dumbly(outputs, targets, {void})
    assert count_right(outputs, targets.to(dtype), loss) == expected


def test_a_perfect_model_of_padded_targets_is_right_everywhere():
    targets = torch.tensor([[0, 2, -100], [1, -100, -100]])
    outputs = F.one_hot(targets.clamp(min=0), 3).float().transpose(1, 2)
    assert count_right(outputs, targets) == (3, 3)


@pytest.mark.parametrize(
    ("outputs", "targets", "loss"),
    [
        ((9, 3), draw(9, 3), F.mse_loss),  # regression
        ((9, 1), draw(9, 1), F.mse_loss),
        ((9,), draw(9), F.mse_loss),
        ((9, 3), (draw(9, 3) > 0).float(), F.binary_cross_entropy_with_logits),  # several labels
        ((9, 3), (draw(9, 3) > 0).long(), cross_entropy),
        ((9, 3), torch.softmax(draw(9, 3), 1), F.cross_entropy),  # soft labels
        ((9, 1), torch.zeros(9, dtype=torch.int64), cross_entropy),  # one output is no choice
        ((9, 1), (draw(9, 1) > 0).float(), lambda o, y: (o - y).abs().mean()),  # whatever this loss means by an output
        ((9, 1), torch.full((9, 1), 0.3), F.binary_cross_entropy_with_logits),  # soft
        ((9, 4, 6), torch.ones(9, 4, dtype=torch.int64), lambda o, y: o.sum()),  # time first
        ((9, 4, 4), torch.ones(9, 4, dtype=torch.int64), lambda o, y: o.sum()),  # classes may be last
        ((9, 3), torch.arange(9), lambda o, y: o.sum()),  # counts, not classes
        ((9, 3), torch.zeros(9, dtype=torch.complex64), lambda o, y: o.sum()),
    ],
)
def test_there_is_no_accuracy_where_it_would_mean_nothing(outputs, targets, loss):
    assert count_right(draw(*outputs), targets, loss) is None


@pytest.mark.parametrize(
    ("loss", "first"),
    [
        (F.binary_cross_entropy_with_logits, 0.0),
        (nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0)), 0.0),
        (partial(F.binary_cross_entropy_with_logits, reduction="mean"), 0.0),
        (F.binary_cross_entropy, 0.5),
        (nn.BCELoss(), 0.5),
    ],
)
@pytest.mark.parametrize("shape", [(11,), (11, 1), (5, 1, 3, 3)])
def test_one_output_under_binary_cross_entropy_says_yes_from_the_losss_own_middle(loss, first, shape):
    outputs, targets = torch.rand(shape, generator=torch.Generator().manual_seed(3)) - 0.1, (draw(*shape) > 0).float()
    expected = sum((o > first) == (t == 1) for o, t in zip(outputs.reshape(-1), targets.reshape(-1), strict=True))
    assert count_right(outputs, targets, loss) == (int(expected), targets.numel())


def test_ignored_targets_are_known_from_functions_modules_and_partials():
    losses = [F.cross_entropy, nn.NLLLoss(ignore_index=7), partial(nn.functional.cross_entropy, ignore_index=3), None]
    assert [ignored(loss) for loss in losses] == [-100, 7, 3, None]


def test_pieces_add_up_to_the_whole_whatever_their_size():
    targets = Y.clone()
    targets[5:15] = -100
    model = linear()
    whole = score(model, X, targets, metric=right)
    for batch in (1, 5, 7, 24):
        parts = score(model, X, targets, batch, metric=right)
        assert (parts.accuracy, parts.metric) == (whole.accuracy, whole.metric)
        assert parts.loss == pytest.approx(F.cross_entropy(model(X), targets).item(), rel=1e-5)
    assert Scores.total([Scores(3, 4), Scores(0, None)]).accuracy is None


def test_evaluation_leaves_tensors_that_training_can_use():
    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.table = linear(), None

        def forward(self, x):
            if self.table is None:
                self.table = torch.arange(8.0)
            return self.head(x * self.table)

    model = fb.learn.FlatModel(Cached())
    evaluate(model, X, Y)
    assert backward(model, X, Y, torch.arange(5)) > 0


def test_a_failing_batch_is_named():
    targets = Y.clone()
    targets[20] = 9
    with pytest.raises(fb.LocalError, match=r"rows 20\.\.23, x \(4, 8\) float32.*Target 9 is out of bounds"):
        score(linear(), X, targets, 4)


# --- outputs


@pytest.mark.parametrize(
    "wrap",
    [lambda z: {"logits": z, "hidden": z}, lambda z: SimpleNamespace(logits=z), lambda z: z],
)
def test_logits_of_dicts_and_objects_train_and_are_scored_like_the_tensor(wrap):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = linear()

        def forward(self, x):
            return wrap(self.head(x))

    plain, wrapped = train(linear()), train(Wrapped())
    assert wrapped.accuracy == plain.accuracy is not None
    assert wrapped.reports[-1].loss == plain.reports[-1].loss


def test_the_users_loss_and_metric_get_what_the_model_gives():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = linear()

        def forward(self, x):
            return self.head(x), x

    result = train(Two(), loss=lambda o, y: F.cross_entropy(o[0], y), metric=lambda o, y: o[1].shape[1])
    assert (result.accuracy, result.metric) == (None, 8.0)
    with pytest.raises(fb.LocalError, match=r"client 0: cross-entropy needs a tensor, or an output with logits.*tuple"):
        train(Two())


# --- one batch before the first round

PIXELS = (X * 10).to(torch.uint8)
FLOATS = X[:, :1]


class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = linear()

    def forward(self, x):
        return self.head(x.unsqueeze(1).expand(-1, 3, -1))


@pytest.mark.parametrize(
    ("model", "x", "y", "loss", "said"),
    [
        (
            linear(1),
            X,
            FLOATS,
            None,
            r"\(10, 1\) float32, the targets are \(10, 1\) float32; for regression give loss=",
        ),
        (nn.Sequential(linear(1), nn.Flatten(0)), X, FLOATS[:, 0], None, "cross-entropy of one output is always 0"),
        (linear(1), X, FLOATS, F.cross_entropy, "client 0: cross-entropy of one output"),
        (linear(3), X, X[:, :3], None, "a probability per class.*for regression give loss="),
        (linear(), X, Y.float(), None, r"for labels give y\.long\(\)"),
        (linear(), X, Y[:, None], None, r"give y\.squeeze\(1\)"),
        (linear(), X, F.one_hot(Y, 4), None, r"one-hot labels give y\.argmax\(1\)"),
        (TimeFirst(), X, Y[:, None].expand(-1, 3), None, "classes in dimension 1"),
        (linear(), X, Y + 1, None, r"labels must be 0\.\.3 for 4 outputs"),
        (linear(), X.double(), Y, None, r"client 0: the model fails on x \(10, 8\) float64.*give x\.float\(\)"),
        (linear(), PIXELS, Y, None, r"scaled as pixels only where they are images \(n, c, h, w\)"),
        (linear(), X[:, :5], Y, None, r"x \(10, 5\) float32: RuntimeError: mat1 and mat2"),
        (linear(1), X, FLOATS[:, 0], F.mse_loss, "Using a target size"),
        (linear(), X, Y, lambda o, y: F.cross_entropy(o, y, reduction="none"), r"a tensor of one number.*got \(10,\)"),
        (linear(), X, Y, lambda o, y: 1.5, "a tensor of one number.*got float"),
        (linear(), X, Y, lambda o, y: F.cross_entropy(o, y).detach(), "the loss has no gradient"),
        (linear(), X, Y, lambda o, y: torch.ones((), requires_grad=True) * 2, "no gradient for the model"),
        (linear(), X, Y.int(), lambda o, y: F.cross_entropy(o, y), r"int64: give y\.long\(\)"),
        (linear(), X, Y, lambda o, y: o.sum() * float("inf"), "the loss is .*though the data are finite"),
        (linear(), X, Y, lambda o, y: {}["a"], "client 0: the loss fails on.*KeyError"),
        (linear(), X, Y, 5, "loss must be a function"),
    ],
)
def test_what_is_wrong_for_everybody_is_said_before_the_first_round(model, x, y, loss, said):
    with pytest.raises(fb.LocalError, match=said):
        fb.federate(copy.deepcopy(model), [(x, y)] * 3, "dense", 1, loss=loss)


def test_a_test_set_that_does_not_fit_is_named():
    with pytest.raises(fb.LocalError, match=r"test: the model fails on x \(24, 3\)"):
        fb.federate(linear(), [(X, Y)], "dense", 1, test=(X[:, :3], Y))
    with pytest.raises(fb.LocalError, match=r"test: labels must be 0\.\.3"):
        fb.federate(linear(), [(X, Y)], "dense", 1, test=(X, Y + 7))
    late = torch.cat([Y] * 3)
    late[70] = 4
    with pytest.raises(fb.LocalError, match=r"test: labels must be 0\.\.3 for 4 outputs, .* got 0\.\.4"):
        fb.federate(linear(), [(X, Y)], "dense", 1, test=(torch.cat([X] * 3), late))


def test_a_fault_of_one_clients_data_does_not_end_the_run_before_it_begins():
    for at in (0, 1, 4):
        parts = [(X, Y)] * 5
        parts[at] = (X, Y + 9)
        check_first_batch(fb.simulation.Task.of(linear(), parts))


def test_the_first_batch_changes_neither_model_nor_generators():
    class Jitter(nn.Module):
        def forward(self, x):
            return x + float(np.random.normal()) + random.random() + torch.rand(())  # noqa: NPY002

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, outputs, targets):
            return F.cross_entropy(outputs * self.scale, targets)

    model = nn.Sequential(Jitter(), nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 4))
    loss = Scaled()
    before, modes = copy.deepcopy(model.state_dict()), [part.training for part in model.modules()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    check_first_batch(fb.simulation.Task.of(model, [(X, Y)] * 2, test=(X, Y), loss=loss, metric=right))
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert [part.training for part in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]  # noqa: NPY002
    assert all(p.grad is None for p in [*model.parameters(), *loss.parameters()])


def test_a_refused_model_is_as_it_was():
    model = linear(1)
    with pytest.raises(fb.LocalError):
        fb.federate(model, [(X, FLOATS)], "pfedpara", 1)
    assert list(model.state_dict()) == ["weight", "bias"]


def test_probabilities_are_targets_of_cross_entropy_and_have_no_accuracy():
    check_cross_entropy(draw(5, 3), torch.softmax(draw(5, 3), 1))
    result = train(linear(), F.one_hot(Y, 4).float())
    assert result.accuracy is None and result.reports[-1].loss is not None


# --- the user's metric

ONE_META = torch.ones((), device="meta")  # a number without a value


@pytest.mark.parametrize(
    "value", [0.5, np.float32(0.5), torch.tensor(0.5), torch.tensor([0.5]), (6, 12), (torch.tensor(6), 12), [6.0, 12]]
)
def test_a_metric_gives_a_mean_or_a_sum_and_a_count(value):
    assert measure(lambda o, y: value, X, Y).figure == 0.5


@pytest.mark.parametrize(
    "value", ["x", None, (1, 2, 3), X, (1, -1), (1, float("nan")), 1j, 10**400, (10**400, 1), ONE_META]
)
def test_a_metric_that_is_no_number_is_refused(value):
    with pytest.raises(fb.LocalError, match="metric must return a number, the batch's mean, or a pair"):
        measure(lambda o, y: value, X, Y)


def test_a_metric_that_raises_is_named_with_shapes():
    with pytest.raises(
        fb.LocalError, match=r"metric absolute fails on outputs \(24, 4\) float32, targets \(24,\) int64"
    ):
        train(linear(), metric=absolute)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("value", [float("nan"), "x"])
def test_a_metric_that_fails_later_costs_its_value_alone_and_is_said_once(processes, value):
    x, y = draw(700, 8), draw(700, 8)[:, :4].argmax(1)

    def uneven(outputs, targets):
        return 0.5 if len(targets) == 500 else value

    result = train(linear(), Y, rounds=2, test=(x, y), metric=uneven, processes=processes)
    assert result.metric is None and result.accuracy is not None
    said = [note for note in result.notes if "metric uneven" in note]
    assert len(said) == 1 and said[0].startswith("round 1: the test set: metric uneven")
    nodes = fb.gossip(linear(), [(X, Y)] * 4, fb.topology.ring(4), "dsgd", 2, test=(x, y), metric=uneven)
    assert nodes.metric is None and sum("metric uneven" in note for note in nodes.notes) == 1


def test_a_metric_without_examples_to_measure_on_is_refused():
    with pytest.raises(fb.LocalError, match="metric needs examples to be measured on"):
        fb.federate(linear(), [(X, Y)], "dense", 1, metric=right)


def test_a_metric_is_named_like_its_function():
    assert [metric_name(f) for f in (absolute, partial(absolute), nn.L1Loss(), lambda o, y: 0)] == [
        "absolute",
        "absolute",
        "L1Loss",
        "metric",
    ]


@pytest.mark.parametrize("metric", [absolute, lambda o, y: ((o - y).abs().sum(), y.numel())])
def test_any_number_of_processes_measures_alike(metric):
    x, y = draw(1203, 8), draw(1203, 2, seed=4)
    runs = [
        fb.federate(
            linear(2), [(X, X[:, :2])] * 4, "dense", 2, test=(x, y), loss=F.mse_loss, metric=metric, processes=processes
        )
        for processes in (1, 3)
    ]
    values = [[(r.metric, r.loss, r.accuracy) for r in run.reports] for run in runs]
    assert values[0] == values[1]
    with torch.no_grad():
        expected = (runs[0].model(x) - y).abs().mean().item()
    assert values[0][-1][0] == pytest.approx(expected, rel=1e-5)
    assert runs[0].metric == values[0][-1][0]


def test_a_metric_stands_in_log_summary_table_and_page(tmp_path):
    result = train(linear(1), FLOATS, loss=F.mse_loss, metric=absolute, out=tmp_path)
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert (line["metric_name"], line["metric"], line["accuracy"]) == ("absolute", result.metric, None)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["metric_name"], summary["metric"], summary["accuracy"]) == ("absolute", result.metric, None)
    page = (tmp_path / "report.html").read_text()
    assert "<th>absolute</th>" in page and ">–</td>" in page and "absolute against bytes" in page.lower()


def test_a_comparison_has_a_column_for_the_metric_and_a_dash_for_the_accuracy():
    def compared(seeds):
        pairs = [(X, FLOATS)] * 2
        return fb.compare(
            linear(1), pairs, ["dense", "topk"], seeds, 1, test=pairs[0], loss=F.mse_loss, metric=absolute, local=LOCAL
        )

    found = compared([0, 1])
    heading, first = found.table.splitlines()[2], found.table.splitlines()[4]
    assert "absolute" in heading and "loss" in heading and "–" in first and "%" not in first
    assert all(row.accuracy is None and row.metric is not None and row.loss is not None for row in found.rows)


def test_personal_models_have_the_metric_of_their_held_out_rows():
    x, y = torch.cat([X] * 4), torch.cat([FLOATS] * 4)
    rows = np.arange(96).reshape(4, 24)
    task = fb.simulation.Task(
        linear(1), x, y, rows[:, :18], holdout=rows[:, 18:], loss=F.mse_loss, metric=absolute, local=LOCAL
    )
    runs = []
    for method in (fb.methods.local(), fb.methods.dense()):
        for processes in (1, 2):
            schedule = fb.simulation.Schedule(2, processes=processes)
            run = fb.simulation.Federation(
                fb.simulation.Task(**vars(task) | {"model": copy.deepcopy(task.model)}), method, schedule, fb.Key(0)
            )
            runs.append(run.run().reports[-1])
    alone, same, dense, _ = runs
    assert alone.metric == alone.personal_metric == same.metric is not None
    assert dense.metric is None and dense.personal_metric is not None
    assert alone.accuracy is None and alone.personal_accuracy is None


def test_gossip_measures_every_nodes_model_and_their_mean(tmp_path):
    runs = [
        fb.gossip(
            linear(1),
            [(X, FLOATS)] * 4,
            fb.topology.ring(4),
            "choco@gamma=0.5",
            2,
            test=(X, FLOATS),
            loss=F.mse_loss,
            metric=absolute,
            processes=processes,
            out=tmp_path if processes == 1 else None,
        )
        for processes in (1, 2)
    ]
    last = runs[0].reports[-1]
    assert [r.metric for r in runs[0].reports] == [r.metric for r in runs[1].reports]
    assert (last.accuracy, last.accuracies, last.mean_accuracy, last.metric_name) == (None, None, None, "absolute")
    assert last.metric == runs[0].metric and last.mean_metric is not None
    assert "<th>absolute</th>" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(reduction="sum"),
        nn.CrossEntropyLoss(reduction="none"),
        nn.MSELoss(reduction="sum"),
        partial(F.cross_entropy, reduction="sum"),
        partial(nn.NLLLoss(reduction="sum")),
    ],
)
def test_a_loss_of_another_reduction_than_the_mean_is_refused_by_name(loss):
    with pytest.raises(fb.LocalError, match=r"loss \w+(Loss|_entropy) has reduction='(sum|none)'"):
        fb.federate(linear(), [(X, Y)], "dense", 1, loss=loss)
    with pytest.raises(fb.LocalError, match="has reduction="):
        fb.gossip(linear(), [(X, Y)] * 2, fb.topology.ring(2), "dsgd", 1, loss=loss)


def test_losses_of_the_mean_are_taken():
    for loss in (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="mean"), partial(F.cross_entropy)):
        assert train(linear(), Y, loss=loss, rounds=1).reports[0].clients


def test_a_loss_that_is_no_scalar_is_refused_by_name():
    def each(outputs, targets):
        return F.cross_entropy(outputs, targets, reduction="none")

    with pytest.raises(fb.LocalError, match="client 0: loss each must return a tensor of one number"):
        fb.federate(linear(), [(X, Y)] * 2, "dense", 1, loss=each)
