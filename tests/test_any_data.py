"""Data in every form that people have: the same model from the same examples, and sentences where it cannot be."""

import numpy as np
import pandas
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler, TensorDataset

import fewbits as fb

X = torch.randn(36, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(36) % 3
PAIRS = [(X[i::3], Y[i::3]) for i in range(3)]
WHOLE = fb.LocalSGD(0.2, batch_size=0, steps=2)  # the order of examples then says nothing


class Rows(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


class Stream(IterableDataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __iter__(self):
        return iter(list(zip(self.x, self.y, strict=True)))


class Named(nn.Module):
    """Takes its inputs by name, and computes its own loss from labels, as Hugging Face's models do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, features, labels=None):
        logits = self.layer(features)
        return {"logits": logits, "loss": None if labels is None else nn.functional.cross_entropy(logits, labels)}


def net():
    torch.manual_seed(1)
    return nn.Linear(5, 3)


def named():
    torch.manual_seed(1)
    return Named()


def train(clients, model=net, test=(X, Y), method="dense", local=WHOLE, rounds=3, **options):
    return fb.federate(model(), clients, method, rounds, test=test, local=local, **options)


def weights(result):
    return torch.cat([p.detach().flatten() for p in result.model.parameters()])


WAYS = {
    "arrays": lambda x, y: (x.numpy(), y.numpy()),
    "tensor data set": lambda x, y: TensorDataset(x, y),
    "data set": Rows,
    "list": lambda x, y: list(zip(x, y, strict=True)),
    "loader": lambda x, y: DataLoader(Rows(x, y), batch_size=len(y)),
    "shuffling loader": lambda x, y: DataLoader(Rows(x, y), batch_size=len(y), shuffle=True),
    "stream": lambda x, y: DataLoader(Stream(x, y), batch_size=len(y)),
    "dict": lambda x, y: {"image": x, "label": y},
    "dict of arrays": lambda x, y: {"input": x.numpy(), "target": y.numpy()},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_form_of_the_data_makes_no_difference(way):
    expected, found = train(PAIRS), train([way(x, y) for x, y in PAIRS], test=way(X, Y))
    torch.testing.assert_close(weights(found), weights(expected), rtol=1e-5, atol=1e-6)
    assert [r.accuracy for r in found.reports] == [r.accuracy for r in expected.reports]


def test_names_and_own_loss():
    clients = [{"features": x, "labels": y, "idx": y} for x, y in PAIRS]
    found = train(clients, named, {"features": X, "labels": Y})
    torch.testing.assert_close(weights(found), weights(train(PAIRS)), rtol=1e-5, atol=1e-6)
    assert found.notes == ["the model takes no 'idx', so that column of the data is left out"]
    assert found.reports[-1].loss == pytest.approx(train(PAIRS).reports[-1].loss, rel=1e-5)


def test_a_loss_of_the_user_goes_first():
    clients = [{"features": x, "labels": y} for x, y in PAIRS]
    loss = lambda outputs, y: 2 * nn.functional.cross_entropy(outputs["logits"], y)  # noqa: E731
    one, two = train(clients, named, None), train(clients, named, None, loss=loss)
    assert not torch.equal(weights(one), weights(two))


def test_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x, scale):
            return self.layer(x * scale[:, None])

    ones = [(x, torch.ones(len(x)), y) for x, y in PAIRS]
    torch.manual_seed(1)
    found = fb.federate(Two(), ones, "dense", 3, test=(X, torch.ones(36), Y), local=WHOLE)
    torch.testing.assert_close(weights(found), weights(train(PAIRS)), rtol=1e-5, atol=1e-6)


def test_a_function_makes_the_data():
    made = []

    def make(client):
        made.append(client)
        return PAIRS[client % 3]

    found = train(make, population=1000, per_round=2, rounds=2)
    assert len(made) < 12  # no more than what trains, and what is tried first
    assert found.reports[-1].clients == 2
    one, two = (train(make, population=50, per_round=4, rounds=2, processes=n) for n in (1, 2))
    assert torch.equal(weights(one), weights(two))


@pytest.mark.parametrize("way", ["shuffling loader", "list", "stream", "dict"])
def test_same_seed_same_bytes_on_any_number_of_processes(way):
    clients = [WAYS[way](x, y) for x, y in PAIRS]
    local = fb.LocalSGD(0.2, batch_size=5)
    one, again, two = (train(clients, local=local, method="topk", processes=n) for n in (1, 1, 2))
    assert torch.equal(weights(one), weights(again))
    assert torch.equal(weights(one), weights(two))
    assert one.ledger.frame_bytes == two.ledger.frame_bytes


def test_a_sampler_of_the_user_is_asked_under_the_seed():
    def clients():
        return [DataLoader(Rows(x, y), batch_size=4, sampler=SubsetRandomSampler(range(6))) for x, y in PAIRS]

    one, two = (train(clients(), processes=n) for n in (1, 2))
    assert torch.equal(weights(one), weights(two))
    assert one.reports[0].clients == 3


def test_augmentation_is_seeded():
    class Noisy(Rows):
        def __getitem__(self, i):
            return self.x[i] + 0.1 * torch.randn(5), self.y[i]

    one, two = (train([Noisy(x, y) for x, y in PAIRS], processes=n) for n in (1, 2))
    assert torch.equal(weights(one), weights(two))


def test_texts_of_several_lengths():
    rows = [(torch.arange(1 + i % 4), i % 2) for i in range(24)]

    def pad(examples):
        lengths = torch.tensor([len(x) for x, _ in examples])
        padded = nn.utils.rnn.pad_sequence([x for x, _ in examples], batch_first=True)
        return padded, lengths, torch.tensor([y for _, y in examples])

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.lstm, self.out = nn.Embedding(5, 6), nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, x, lengths):
            h, _ = self.lstm(self.embedding(x))
            return self.out(h[torch.arange(len(x)), lengths - 1])

    torch.manual_seed(0)
    clients = [rows[i::3] for i in range(3)]
    found = fb.federate(Last(), clients, "lbgm+topk", 3, test=rows, collate=pad, local=fb.LocalSGD(1.0))
    assert found.reports[-1].accuracy is not None
    with pytest.raises(fb.LocalError, match="give collate="):
        fb.federate(Last(), clients, "dense", 1)


def test_compare_takes_the_same():
    clients = [{"features": x, "labels": y} for x, y in PAIRS]
    found = fb.compare(named(), clients, ["dense", "topk"], rounds=2, test={"features": X, "labels": Y})
    assert [row.method for row in found.rows] == ["dense", "topk"]


@pytest.mark.parametrize(
    ("clients", "options", "says"),
    [
        ([{"a": X}], {}, "targets under one of labels"),
        ([{"features": X, "labels": Y[:5]}], {}, "as many examples each"),
        ([X], {}, "client 0 must be"),
        (["text"], {}, "client 0 must be"),
        ([iter([1])], {}, "client 0 must be"),
        ([DataLoader(Rows(X, Y), batch_size=None)], {}, "batch_size"),
        ([[], []], {}, "no example"),
        ([[(X[0],), (X[1],)]], {}, "a batch must be"),
        (lambda client: PAIRS[0], {}, "population"),
        (PAIRS, {"population": 3}, "population=3"),
        (lambda client: PAIRS[0], {"population": 0}, "population"),
        (lambda client: None, {"population": 3}, "client 0 must be"),
        ([Rows(X, Y)], {"collate": 3}, "collate must be a function"),
        ([{"other": X, "more": X, "labels": Y}], {}, "takes 'input', and the batch has 'other', 'more'"),
    ],
)
def test_what_cannot_be_is_said_before_round_1(clients, options, says):
    with pytest.raises(fb.LocalError, match=says):
        train(clients, test=None, **options)


def test_data_that_raise_are_named():
    class Broken(Rows):
        def __getitem__(self, i):
            raise OSError("no such file")

    with pytest.raises(fb.LocalError, match="client 0: its data fail: OSError: no such file"):
        train([Broken(X, Y)], test=None)


def test_one_client_whose_data_raise_costs_its_turn():
    class Broken(Rows):
        def __getitem__(self, i):
            raise OSError("no such file")

    found = train([*(Rows(*pair) for pair in PAIRS), Broken(X, Y)])
    assert found.reports[-1].clients == 3
    assert any("no such file" in note for note in found.notes)


def test_a_run_goes_on_with_the_same_data_alone(tmp_path):
    clients = [WAYS["list"](x, y) for x, y in PAIRS]
    train(clients, rounds=1, out=tmp_path)
    train(clients, rounds=2, out=tmp_path)
    with pytest.raises(fb.LocalError, match="examples"):
        train([one[:4] for one in clients], rounds=3, out=tmp_path)


def test_what_needs_pairs_says_so():
    with pytest.raises(fb.LocalError, match="pair"):
        fb.federate(net(), [Rows(*pair) for pair in PAIRS], "auto", budget=10_000)


def test_numpy_scalars_in_lists():
    rows = [(np.ones(5, np.float32), np.int64(i % 3)) for i in range(6)]
    assert fb.federate(net(), [rows], "dense", 1, test=rows).reports[0].accuracy is not None


def test_tables_and_columns_are_pairs():
    """As pandas has them; a column of words is refused."""
    tables = [(pandas.DataFrame(x.numpy()), pandas.Series(y.numpy(), range(3, 15))) for x, y in PAIRS]
    found = [fb.federate(net(), data, "dense", 2, local=WHOLE, test=data[0]) for data in (PAIRS, tables)]
    assert [r.bytes for r in found[0].reports] == [r.bytes for r in found[1].reports]
    assert all(torch.equal(*pair) for pair in zip(*(r.model.parameters() for r in found), strict=True))
    with pytest.raises(fb.LocalError, match="x of client 0 must hold numbers; got a NumPy array"):
        fb.federate(net(), [(pandas.DataFrame({"colour": ["red"] * 3}), pandas.Series([0, 1, 2]))], "dense", 1)


class EveryNth:
    """As flwr-datasets' partitioners: a data set, and the rows of one number."""

    num_partitions = 3

    def __init__(self, dataset=None):
        self.dataset = dataset

    def load_partition(self, partition_id):
        return self.dataset.select(range(partition_id, len(self.dataset), self.num_partitions))


def test_a_partitioner_stands_for_the_list_of_its_partitions():
    datasets = pytest.importorskip("datasets")
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, generator=draw)
    rows = datasets.Dataset.from_dict({"input": x.tolist(), "label": x.argmax(1).tolist()})
    splits = [EveryNth(rows), [EveryNth(rows).load_partition(i) for i in range(3)]]
    try:
        from flwr_datasets.partitioner import DirichletPartitioner
    except ImportError:
        pass
    else:
        found = DirichletPartitioner(3, "label", 1.0, min_partition_size=1)
        found.dataset = rows
        assert fb.federate(torch.nn.Linear(4, 4), found, "dense", rounds=1).reports[0].clients == 3
    models = []
    for clients in splits:
        torch.manual_seed(0)
        models.append(fb.federate(torch.nn.Linear(4, 4), clients, "dense", rounds=2).model)
    assert torch.equal(models[0].weight, models[1].weight)
    with pytest.raises(fb.LocalError, match="clients: the EveryNth fails: AttributeError"):
        fb.federate(torch.nn.Linear(4, 4), EveryNth(), "dense", rounds=1)


def test_a_collate_function_is_used_for_stored_tensors_and_refused_where_nothing_could_use_it():
    x, y = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2
    seen = []

    def collate(examples):
        seen.append(len(examples))
        return torch.utils.data.default_collate(examples)

    stored = torch.utils.data.TensorDataset(x, y)
    fb.federate(torch.nn.Linear(3, 2), [stored], "dense", 1, collate=collate)
    assert seen
    with pytest.raises(fb.LocalError, match="collate makes batches of data sets; the clients' data are pairs"):
        fb.federate(torch.nn.Linear(3, 2), [(x, y)], "dense", 1, collate=collate)


@pytest.mark.parametrize("kind", ["loader", "dict"])
def test_a_collate_function_that_nobody_needs_is_refused(kind):
    x, y = torch.randn(8, 4), torch.arange(8) % 2
    one = DataLoader(TensorDataset(x, y), batch_size=4) if kind == "loader" else {"x": x, "labels": y}
    with pytest.raises(fb.LocalError, match=f"data are given as {type(one).__name__}: leave it out"):
        fb.federate(nn.Linear(4, 2), [one, one], "dense", rounds=1, collate=lambda rows: rows)
