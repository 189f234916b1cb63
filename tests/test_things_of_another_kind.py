"""A class, an optimizer or an output of several parts where a function or a tensor belongs: a short way out."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

import fewbits as fb


class OfParts(nn.Module):
    """Gives an object with logits, as Hugging Face's models do, or another wrapping of them."""

    def __init__(self, wrap):
        super().__init__()
        self.line, self.wrap = nn.Linear(4, 2), wrap

    def forward(self, x):
        return self.wrap(self.line(x))


class Always:
    """A metric of the user's."""

    def __call__(self, output, y):
        return 1.0


def federate(model=None, **more):
    x = torch.eye(4)
    clients = [(x, torch.arange(4) % 2)] * 2
    return fb.federate(model or nn.Linear(4, 2), clients, "dense", 1, test=clients[0], **more)


def adam():
    return torch.optim.AdamW(nn.Linear(4, 2).parameters())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"loss": nn.CrossEntropyLoss}, "loss must be a function of (output, y), not a class; give one of it: Cross"),
        ({"metric": Always}, "metric must be a function of (output, y), not a class; give one of it: Always(...)"),
        ({"local": fb.LocalSGD}, "local is the class LocalSGD; give one of it, such as fb.LocalSGD(lr=0.1)"),
        ({"local": torch.optim.AdamW}, "give local=fb.LocalTraining(lambda p: AdamW(p, lr=0.01))"),
        ({"local": adam()}, "got a value of type AdamW; give local=fb.LocalTraining(lambda p: AdamW(p, lr=0.01))"),
        ({"loss": adam()}, "loss must be a function of (output, y); got a value of type AdamW"),
    ],
)
def test_a_class_or_an_optimizer_is_no_function(given, said):
    with pytest.raises(fb.LocalError) as caught:
        federate(**given)
    assert said in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_local_training_takes_the_class_of_an_optimizer_and_names_an_optimizer_in_one_line():
    made = fb.LocalTraining(torch.optim.AdamW), fb.LocalTraining(lambda p: torch.optim.AdamW(p))
    torch.manual_seed(0)
    first = nn.Linear(4, 2)
    one, other = (federate(copy_of(first), local=local) for local in made)
    assert torch.equal(one.model.weight, other.model.weight)
    with pytest.raises(fb.LocalError, match=r"optimizer must be a function.*got a value of type AdamW$"):
        fb.LocalTraining(adam())


def copy_of(model):
    found = nn.Linear(4, 2)
    found.load_state_dict(model.state_dict())
    return found


@pytest.mark.parametrize(
    ("wrap", "part"),
    [
        (lambda x: SimpleNamespace(logits=x), "output.logits"),
        (lambda x: {"logits": x}, 'output["logits"]'),
        (lambda x: (x, x), "output[0]"),
    ],
)
def test_a_function_of_tensors_gets_told_which_part_of_an_output_is_one(wrap, part):
    with pytest.raises(fb.LocalError) as caught:
        federate(OfParts(wrap), loss=functional.cross_entropy)
    assert str(caught.value).endswith(f": write loss=lambda output, y: cross_entropy({part}, y)")
    names = {"cross_entropy": functional.cross_entropy}
    loss = eval(str(caught.value).rpartition("loss=")[2], names)
    with pytest.raises(fb.LocalError) as caught:
        federate(OfParts(wrap), loss=loss, metric=functional.cross_entropy)
    assert str(caught.value).endswith(f": write metric=lambda output, y: cross_entropy({part}, y)")
    assert len(federate(OfParts(wrap), loss=loss, metric=loss).reports) == 1


def test_a_mistake_in_the_users_own_function_has_no_such_hint():
    with pytest.raises(fb.LocalError) as caught:
        federate(OfParts(lambda x: {"logits": x}), loss=lambda output, y: output["logits"].nothing)
    assert "no attribute 'nothing'" in str(caught.value) and "write loss" not in str(caught.value)
