"""compare: the same model and data for every method, the bytes of federate, and the page of the command."""

import copy
import json

import pytest
import torch
from torch import nn

import fewbits as fb
from fewbits.comparison import compare
from fewbits.methods import topk
from web_page import Outside

ROUNDS = 2


def blobs(clients=3, rows=12):
    """(x, y) of each client, and of the test set: three classes that a line separates."""
    key = fb.Key(5)
    x = torch.from_numpy(key.normal((clients + 1) * rows * 4)).reshape(clients + 1, rows, 4).float()
    y = torch.arange((clients + 1) * rows).reshape(clients + 1, rows) % 3
    x[..., 0] += 3.0 * y
    return [(x[c], y[c]) for c in range(clients)], (x[-1], y[-1])


def linear():
    model = nn.Linear(4, 3)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.from_numpy(fb.Key(1).fold(len(p)).normal(p.numel())).reshape(p.shape))
    return model


def test_every_run_is_that_of_federate_and_the_model_stays(tmp_path):
    clients, test = blobs()
    model = linear()
    before = copy.deepcopy(model.state_dict())
    found = compare(model, clients, ["dense", topk(fraction=0.5)], seeds=[0, 3], rounds=ROUNDS, test=test)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert [(r.method, r.seed) for r in found.records] == [("dense", 0), ("topk", 0), ("dense", 3), ("topk", 3)]
    alone = fb.federate(linear(), clients, topk(fraction=0.5), ROUNDS, test=test, seed=3)
    last = found.records[-1].last
    assert (last.accuracy, last.up_frame_bytes) == (alone.accuracy, alone.ledger.frame_bytes["up"])
    assert found.page is None and any("weights of the given model" in note for note in found.notes)
    text = str(found)
    assert text.startswith(found.table) and max(map(len, text.splitlines())) <= 80
    assert text.removeprefix(found.table).split() == " ".join(found.notes).split()
    assert "dense" in found.table and "± " not in found.table.splitlines()[0]


def test_with_a_folder_it_leaves_the_page_and_continues(tmp_path):
    clients, test = blobs()
    seen = []

    def played(rounds):
        seen.clear()
        return compare(
            *(linear(), clients, ["dense", "a=topk@fraction=0.5,bits=8", "b=topk@fraction=0.25"]),
            seeds=[0],
            rounds=rounds,
            test=test,
            out=tmp_path / "out",
            target=0.1,
            watch=lambda label, seed, report: seen.append((label, seed, report.round)),
        )

    found = played(ROUNDS)
    assert [row.method for row in found.rows] == ["dense", "a", "b"] and found.rows[1].up > found.rows[2].up
    page = Outside()
    page.feed(found.page.read_text())
    assert "a: topk@fraction=0.5,bits=8; b: topk@fraction=0.25" in found.page.read_text()
    assert page.fetched == [] and page.tags.count("img") == 1
    assert [one["method"] for one in json.loads((tmp_path / "out" / "summary.json").read_text())] == ["dense", "a", "b"]
    first = list(seen)
    again = played(ROUNDS + 1)
    assert first == [(m, 0, n) for m in ["dense", "a", "b"] for n in (1, 2)] and seen == [
        (m, 0, 3) for m in ("dense", "a", "b")
    ]
    assert [r.last.round for r in again.records] == [3, 3, 3]


def test_methods_are_a_list_a_dict_by_labels_or_a_text_with_commas():
    forms = [
        ["dense", "a=topk@fraction=0.5,bits=8"],
        {"dense": "dense", "a": "topk@fraction=0.5,bits=8"},
        {"dense": "dense", "a": fb.methods.topk(fraction=0.5, bits=8)},
        "dense,a=topk@fraction=0.5,bits=8",
    ]
    found = [compare(linear(), blobs()[0], methods, rounds=1) for methods in forms]
    assert [[row.method for row in one.rows] for one in found] == [["dense", "a"]] * 4
    assert len({one.rows[1].up for one in found}) == 1


@pytest.mark.parametrize(
    ("methods", "more", "said"),
    [
        ("", {}, "methods is a list such as"),
        ({"few": "tokp"}, {}, "did you mean 'topk'"),
        ({1: "topk"}, {}, "a label of a method is text; got 1"),
        ("a=topk,a=dense", {}, "two methods are called 'a'"),
        ([], {}, "methods is a list such as"),
        (["dense", "dense"], {}, "two methods are called 'dense'; give labels"),
        (["tokp"], {}, "did you mean 'topk'"),
        ([3], {}, "a method is a text such as"),
        (["dense", "fedper@private=head"], {"rounds": 10**9}, "private: pattern 'head' matches nothing"),
        (["dense"], {"seeds": []}, "one or more seeds"),
        (["dense"], {"rounds": 0}, "rounds must be a whole number, 1 or more"),
    ],
)
def test_what_cannot_be_compared_is_a_sentence(methods, more, said):
    with pytest.raises(fb.LocalError, match=said):
        compare(linear(), blobs()[0], methods, **{"seeds": [0], "rounds": 1} | more)
