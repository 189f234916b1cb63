"""holdout over data in all forms: every example of a client on one side, the same for every seed and call."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import fewbits as fb
from commands import call

CLIENTS = 4


def pair(client):
    x = torch.arange(40.0).reshape(10, 4) + 100 * client
    return x, torch.arange(10) % 3


class Mine(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, row):
        return self.x[row], self.y[row]


def hugging(x, y):
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_dict({"input": x.tolist(), "labels": y.tolist()})


def arrays(x, y):
    return {"input": x.numpy(), "labels": y.numpy()}


FORMS = {
    "dict": lambda x, y: {"input": x, "labels": y},
    "arrays": arrays,
    "three": lambda x, y: (x, torch.ones(len(y)), y),
    "data set": Mine,
    "tensor data set": TensorDataset,
    "list": lambda x, y: list(zip(x, y, strict=True)),
    "hugging face": hugging,
}


class Two(nn.Linear):
    def forward(self, input, scale=None):
        return super().forward(input)


def seen_rows(found):
    """First numbers of the inputs of what a function got as a client's data."""
    if hasattr(found, "column_names"):
        return [row[0] for row in found["input"]]
    if isinstance(found, dict):
        return [float(x) for x in found["input"][:, 0]]
    if isinstance(found, TensorDataset):
        found = found.tensors
    if isinstance(found, tuple):
        return found[0][:, 0].tolist()
    return [float(found[i][0][0]) for i in range(len(found))]


@pytest.mark.parametrize("made", [False, True], ids=["given", "function"])
@pytest.mark.parametrize("form", FORMS)
def test_each_example_is_trained_on_or_held_out_and_the_same_ones_whatever_the_form(form, made):
    data = [FORMS[form](*pair(client)) for client in range(CLIENTS)]
    clients, population = (data.__getitem__, CLIENTS) if made else (data, None)
    trained, tested = {}, []

    def local(model, data, context):
        trained[context.client] = sorted(seen_rows(data))

    def metric(output, y):
        tested.append(len(y))
        return torch.tensor(1.0)

    model = Two(4, 3)
    more = {"test": data[0], "metric": metric, "population": population, "holdout": 0.3, "local": local}
    last = fb.federate(model, clients, "dense", 1, **more).reports[-1]
    assert Counter(tested)[3] >= CLIENTS and last.personal_accuracy is not None  # 3 of 10
    pairs = {}
    fb.federate(
        nn.Linear(4, 3),
        [pair(client) for client in range(CLIENTS)],
        *("dense", 1),
        holdout=0.3,
        seed=1,
        local=lambda model, data, context: pairs.update({context.client: sorted(data[0][:, 0].tolist())}),
    )
    assert trained == pairs and all(len(rows) == 7 for rows in pairs.values())


def test_bytes_and_personal_figures_do_not_depend_on_the_number_of_processes():
    data = [FORMS["data set"](*pair(client)) for client in range(CLIENTS)]

    def run(**more):
        result = fb.federate(nn.Linear(4, 3), data, "fedper@private=*", 2, holdout=0.2, seed=3, **more)
        return result.bytes, [report.personal_accuracy for report in result.reports]

    torch.manual_seed(0)
    one = run()
    torch.manual_seed(0)
    assert run(processes=2) == one and one[1][-1] is not None


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(*pair(0), strict=True))


@pytest.mark.parametrize("value", [DataLoader(TensorDataset(*pair(0)), batch_size=2), Stream()])
@pytest.mark.parametrize("made", [False, True])
def test_loaders_and_streams_are_refused_in_a_sentence(value, made):
    clients, population = ((lambda client: value), 2) if made else ([value, value], None)
    with pytest.raises(
        fb.LocalError, match=r"holdout takes examples by their numbers, which .* \(client 0\); give the"
    ):
        fb.federate(nn.Linear(4, 3), clients, "dense", 1, holdout=0.2, population=population)


def test_a_client_of_one_example_is_named():
    data = [FORMS["dict"](*(x[:size] for x in pair(0))) for size in (5, 1)]
    with pytest.raises(fb.LocalError, match="holdout: client 1 has 1 example; to hold one out it needs two"):
        fb.federate(nn.Linear(4, 3), data, "dense", 1, holdout=0.2)


def test_a_run_with_another_share_does_not_continue(tmp_path):
    data = [FORMS["dict"](*pair(client)) for client in range(2)]
    fb.federate(nn.Linear(4, 3), data, "dense", 1, holdout=0.2, out=tmp_path / "a")
    with pytest.raises(fb.LocalError, match="holds another run; its"):
        fb.federate(nn.Linear(4, 3), data, "dense", 2, holdout=0.3, out=tmp_path / "a")


TASK = """
import torch
from torch import nn


def model(key):
    return nn.Linear(4, 3)


def data():
    x = torch.randn(40, 4)
    rows = [{"input": x[i::4], "labels": x[i::4, :3].argmax(1)} for i in range(4)]
    return rows, rows[0]
"""


def test_the_command_line_takes_holdout_with_data_of_the_users(folder, monkeypatch):
    (folder / "held_task.py").write_text(TASK)
    monkeypatch.syspath_prepend(str(folder))
    task = "--model held_task:model --data held_task:data --rounds 1 --processes 1"
    text = call(f"train {task} --method local --holdout 0.3 --out a")
    assert "personal" in text and "note:" not in text
    assert "personal" in call(f"compare {task} --methods dense,local --holdout 0.3 --out b")


@pytest.mark.parametrize("bad", [0, 2])
def test_a_client_whose_pair_does_not_fit_loses_its_turns_and_the_others_hold_out(bad):
    parts = [pair(client) for client in range(CLIENTS)]
    parts[bad] = (parts[bad][0][:, :3], parts[bad][1][:4])  # of another width, and of two lengths
    result = fb.federate(nn.Linear(4, 3), parts, "dense", 1, holdout=0.2, processes=1)
    assert result.reports[0].clients == CLIENTS - 1
    assert f"client {bad} was skipped: it has 10 rows of x and 4 of y" in " ".join(result.notes)
