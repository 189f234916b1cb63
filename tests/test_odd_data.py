"""Data, metrics, places and optimizers that go wrong cost a client's turn, or are a sentence before round 1."""

import os

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fewbits as fb
from commands import call

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)


class Named(nn.Linear):
    def forward(self, input):
        return super().forward(input)


def loader(rows, **more):
    return DataLoader(TensorDataset(X[:rows], Y[:rows]), batch_size=4, **more)


GOOD = loader(12)
ODD = {
    "it has no example": loader(0),
    "its 3 examples give no batch": loader(3, drop_last=True),
    "no example": {"input": X[:0], "labels": Y[:0]},
    "the batch has 'pixels', 'more'": {"pixels": X, "more": X, "labels": Y},
}
MADE = {
    "it has no example": (X[:0], Y[:0]),
    "client 1 must be an": "text",
    "client 1: its data are a pair of lists": ([X[0], X[1]], [0, 1]),
    "holdout: client 1 has 1 example; to hold one out it needs two": (X[:1], Y[:1]),
}


def skipped(clients, **more):
    result = fb.federate(Named(4, 3), clients, "dense", 2, **more)
    assert [report.skipped for report in result.reports] == [1, 1]
    return " ".join(result.notes)


@pytest.mark.parametrize("why", ODD)
def test_one_client_whose_data_give_no_batch_loses_its_turns(why):
    assert f"client 1 was skipped: {why}" in (said := skipped([GOOD, ODD[why], GOOD])) or why in said


@pytest.mark.parametrize("why", MADE)
def test_one_client_whose_data_a_function_makes_wrong_loses_its_turns(why):
    holdout = 0.3 if "holdout" in why else None
    assert why in skipped(lambda client: MADE[why] if client == 1 else (X, Y), population=3, holdout=holdout)


def test_nodes_go_on_without_the_steps_of_one_whose_data_give_no_batch():
    nodes = [GOOD, loader(3, drop_last=True), GOOD, GOOD]
    result = fb.gossip(Named(4, 3), nodes, fb.topology.ring(4), "dsgd", 1, test=GOOD)
    assert result.reports[0].skipped == 1 and any("its 3 examples give no batch" in note for note in result.notes)


@pytest.mark.parametrize(
    ("clients", "said"),
    [
        (TensorDataset(X, Y), r"got one TensorDataset alone; divide it, such as by \[torch.utils.data.Subset"),
        (GOOD, "got one DataLoader alone"),
        ({"a": (X, Y)}, "got a dict; give list"),
        ([[("some words", 0)] * 3] * 2, "a model takes numbers: tokenise texts"),
        ([([X[0], X[1]], [0, 1])] * 2, "client 0: its data are a pair of lists; give tensors"),
    ],
)
def test_common_mistakes_with_data_have_a_way_out(clients, said):
    with pytest.raises(fb.LocalError, match=said):
        fb.federate(Named(4, 3), clients, "dense", 1)


def test_a_place_in_another_encoding_is_as_good_as_any(folder):
    place = os.fsdecode(b"caf\xe9")
    result = fb.federate(Named(4, 3), [(X, Y)] * 2, "dense", 1, test=(X, Y), out=place)
    assert result.notes == []
    assert "note" not in call("report . --out page") and "caf" in (folder / "page/report.html").read_text()
    with pytest.raises(fb.LocalError, match="a label of a method is text"):
        fb.compare(Named(4, 3), [(X, Y)] * 2, {place: "dense"}, rounds=1)
    with pytest.raises(fb.LocalError, match="has a zero character"):
        fb.federate(Named(4, 3), [(X, Y)], "dense", 1, out="a\0b")


def test_a_report_names_a_run_of_a_call_without_a_server(folder):
    fb.gossip(Named(4, 3), [(X, Y)] * 4, fb.topology.ring(4), "dsgd", 1, out="graph")
    assert "graph is a run without a server" in call("report graph", code=2)


class Noisy(TensorDataset):
    """A test set that draws, as augmentation does."""

    def __getitem__(self, row):
        x, y = super().__getitem__(row)
        return x + torch.randn(4), y


def test_a_test_set_that_draws_is_evaluated_alike_on_any_number_of_processes():
    torch.manual_seed(1)
    model, state = Named(4, 3), torch.get_rng_state()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    found = []
    for processes in (1, 2):
        model.load_state_dict(start)
        data = Noisy(X, Y)
        result = fb.federate(model, [loader(12)] * 2, "dense", 2, test=data, processes=processes)
        found.append([(report.loss, report.accuracy) for report in result.reports])
    assert found[0] == found[1] and torch.equal(torch.get_rng_state(), state)
