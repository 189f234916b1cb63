"""Clients, test sets and arguments of other kinds: NumPy arrays are taken, everything else gets a sentence."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fewbits as fb
from fewbits.engines.common.pairs import pairs, tensor
from fewbits.learn.select import select

X = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
Y = X[:, :4].argmax(1)
PAIR = (X, Y)
DATA = TensorDataset(X, Y)


def linear():
    model = nn.Linear(8, 4)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model


def weights(clients, **options):
    result = fb.federate(linear(), clients, "dense", 1, **options)
    return torch.cat([p.detach().reshape(-1) for p in result.model.parameters()])


@pytest.mark.parametrize(
    "clients",
    [
        [(X.numpy(), Y.numpy())] * 2,
        [(X.numpy().astype(np.float64), Y.numpy().astype(np.int32))] * 2,
        [(np.asfortranarray(X.numpy()), Y.numpy().astype(">i2"))] * 2,
        [(X.numpy()[::-1][::-1], Y.numpy().astype(np.uint8))] * 2,
        [(X.clone().requires_grad_(), Y)] * 2,
        [[X, Y], [X, Y]],
        zip([X, X], [Y, Y], strict=True),
        (PAIR for _ in range(2)),
        [DATA, DATA],
    ],
)
def test_the_same_data_in_another_form_trains_the_same_model(clients):
    assert torch.equal(weights(clients), weights([PAIR] * 2))


@pytest.mark.parametrize(
    ("clients", "said"),
    [
        ({"a": PAIR}, "got a dict; give list"),
        (DATA, "must be a list .* got one TensorDataset alone"),
        (DataLoader(DATA, 4), "must be a list .* got one DataLoader alone"),
        (np.zeros((3, 2)), "must be a list .* got ndarray"),
        (X, "must be a list"),
        (5, "must be a list .* got int"),
        ("ab", "must be a list .* got str"),
        (PAIR, r"client 0 must be an \(x, y\) pair.* got \(12, 8\) float32"),
        ([(X, Y, Y)], "client 0: the model fails on x tuple of 2: .* takes 2 positional arguments but 3 were given"),
        ([None], "client 0 must be"),
        ([(list(X), list(Y))], "client 0: its data are a pair of lists; give tensors"),
        ([PAIR, (X, Y.tolist())], r"y of client 1 must be a tensor .* give torch.tensor"),
        ([({"ids": X}, Y)], "x of client 0 must be a tensor .* got dict of ids .* several inputs"),
        ([(np.array(["a"] * 12), Y)], "x of client 0 must hold numbers; got a NumPy array .* of <U1"),
        ([(X.numpy().astype(object), Y)], "must hold numbers"),
        ([(np.full((12, 8), 2**63, np.uint64), Y)], "must fit int64"),
        ([(torch.tensor(1.0), torch.tensor(1))], "must be a dense tensor, examples first"),
        ([(X.to_sparse(), Y)], "must be a dense tensor"),
        ([(X.to("meta"), Y)], "must be a dense tensor.* on meta"),
        ([(np.ma.masked_less(X.numpy(), 0), Y)], "x of client 0 has masked values"),
        ([PAIR, (X[:, :5], Y)], r"client 1: its x is \(12, 5\) float32, that of client 0 \(12, 8\) .*pad sequences"),
        ([PAIR, (X, Y.int())], "client 1: its y is .* int32"),
        ([PAIR, (X.double(), Y)], "client 1: its x .* float64"),
        ([PAIR, (X, Y[:5]), (X, Y[:6])], "client 1: it has 12 rows of x and 5 of y; so it is with 2 of 3 clients"),
        ([(X[:0], Y[:0])], "client 0: it has no example"),
    ],
)
def test_clients_of_another_kind_get_a_sentence(clients, said):
    with pytest.raises(fb.LocalError, match=said):
        fb.federate(linear(), clients, "dense", 1)


def test_nested_tensors_get_a_sentence():
    nested = torch.nested.nested_tensor([X[0], X[1, :3]], layout=torch.jagged)  # takes seconds to import
    with pytest.raises(fb.LocalError, match=r"must be a dense tensor.* got nested"):
        fb.federate(linear(), [(nested, Y)], "dense", 1)


@pytest.mark.parametrize(
    "test", [X, [X], {"x": X}, (X, Y, Y), (X[:0], Y[:0]), DataLoader(DATA, None), "ab", ({"a": X}, Y), (X, Y[:3])]
)
def test_test_sets_of_another_kind_get_a_sentence(test):
    with pytest.raises(fb.LocalError, match="test"):
        fb.federate(linear(), [PAIR], "dense", 1, test=test)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"local": value} for value in ({}, 5, "sgd")),
        *({"rounds": value} for value in ("3", 0, 2.5)),
        *({"per_round": value} for value in (0, "1", 3)),
        *({"watch": 5}, {"out": 5}, {"method": 5}, {"device": None}, {"model": "mlp"}, {"metric": "f1", "test": PAIR}),
    ],
)
def test_arguments_of_another_kind_get_a_sentence(wrong):
    with pytest.raises(fb.LocalError):
        fb.federate(**{"model": linear(), "clients": [PAIR], "method": "dense", "rounds": 1} | wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"seeds": value} for value in (3, [], [1, 1], "01", [0.5], None)),
        *({"methods": value} for value in ("dens", 5, [], None, {"dense": 1})),
        *({"target": value} for value in ("x", 2)),
        *({"watch": 5}, {"local": {}}, {"clients": {"a": PAIR}}),
    ],
)
def test_arguments_of_a_comparison_get_a_sentence(wrong):
    given = {"model": linear(), "clients": [PAIR], "methods": ["dense"], "seeds": [0], "rounds": 1}
    with pytest.raises(fb.LocalError):
        fb.compare(**given | wrong)


@pytest.mark.parametrize(
    "wrong", [{"network": "ring"}, {"inactive": 2}, {"local": {}}, {"watch": 5}, {"nodes": [PAIR] * 3}, {"nodes": X}]
)
def test_arguments_without_a_server_get_a_sentence(wrong):
    given = {"model": linear(), "nodes": [PAIR] * 4, "network": fb.topology.ring(4), "method": "dsgd", "rounds": 1}
    with pytest.raises(fb.LocalError):
        fb.gossip(**given | wrong)


def test_sentences_about_nodes_call_them_nodes():
    with pytest.raises(fb.LocalError, match="node 1 must be"):
        pairs([PAIR, None], "node")
    wide = [(X[:, :5], Y)] * 4
    with pytest.raises(fb.LocalError, match="node 0: the model fails"):
        fb.gossip(linear(), wide, fb.topology.ring(4), "dsgd", 1)


def test_numpy_arrays_are_taken_by_a_task_too():
    task = fb.simulation.Task(linear(), X.numpy(), Y.numpy().astype(np.int16), [[0, 1], [2, 3]], X.numpy(), Y.numpy())
    assert (task.x.dtype, task.y.dtype) == (torch.float32, torch.int64)
    with pytest.raises(fb.LocalError, match="parts must be a list"):
        fb.simulation.Task(linear(), X, Y, 5)  # pyright: ignore[reportArgumentType]


def test_numpy_keeps_pixels_and_truth_values():
    assert tensor(np.zeros((2, 3), np.uint8), "x").dtype == torch.uint8
    assert tensor(np.zeros(2, bool), "y").dtype == torch.bool


@pytest.mark.parametrize("shape", [(6,), (6, 8), (6, 5, 5), (6, 2, 2, 2, 2)])
def test_uint8_means_pixels_for_images_alone(shape):
    tokens = (torch.arange(6).view(6, *[1] * (len(shape) - 1)).expand(shape) * 40).to(torch.uint8)
    assert torch.equal(select(tokens, torch.tensor([5, 0])), tokens[[5, 0]])


def test_labels_of_any_whole_kind_train_alike():
    first = weights([PAIR] * 2)
    for dtype in (torch.int32, torch.int16, torch.uint8, torch.int8):
        for loss in (None, nn.functional.cross_entropy):
            assert torch.equal(weights([(X, Y.to(dtype))] * 2, loss=loss), first)
    two = [(X, X[:, 0] > 0)]
    assert fb.federate(nn.Linear(8, 2), two, "dense", 1, test=two[0]).accuracy is not None


WRONG_NUMBERS = [True, -1, 1.0, "1", b"1", None, 10**30]


@pytest.mark.parametrize("wrong", [{name: value} for name in ("rounds", "seed") for value in WRONG_NUMBERS])
def test_numbers_of_a_run_are_checked_before_its_data(wrong):
    for call, given in (
        (fb.federate, {"method": "dense"}),
        (fb.gossip, {"network": fb.topology.ring(2), "method": "dsgd"}),
    ):
        (name,) = wrong
        if call is fb.federate and wrong == {"rounds": None}:
            continue  # fifty, or what a budget allows
        data = {"clients" if call is fb.federate else "nodes": 5}
        with pytest.raises(fb.LocalError, match=f"^{name} must be a whole number"):
            call(**{"model": linear(), "rounds": 1} | data | given | wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        *(({"rounds": value}, "^rounds must be") for value in WRONG_NUMBERS if value is not None),
        *(({"seeds": [0, value]}, "^compare: a seed must be") for value in WRONG_NUMBERS),
        *(({"seeds": value}, "^compare: seeds is a list") for value in (b"x", "12", bytearray(b"x"), memoryview(b"x"))),
    ],
)
def test_numbers_of_a_comparison_are_checked_before_its_data(wrong, said):
    with pytest.raises(fb.LocalError, match=said):
        fb.compare(**{"model": linear(), "clients": 5, "methods": ["dense"], "seeds": [0], "rounds": 1} | wrong)


def test_a_comparison_has_one_seed_unless_more_are_given_here_and_on_the_command_line():
    found = fb.compare(linear(), [PAIR], ["dense"], rounds=1)
    assert [record.seed for record in found.records] == [0]
