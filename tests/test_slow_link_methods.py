"""The methods for slow links at work: they learn, they send few bytes, and processes change no bit."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import fewbits as fb
from digits_task import digits, filled

LOCAL = fb.LocalSGD(lr=0.1, batch_size=20)
LEARN = {  # the largest share of dense bytes that a method may send upwards
    "diloco@momentum=0.5": 0.13,
    "sparseloco@fraction=0.0625,chunk=512,lr=1": 0.025,
    "demo@fraction=0.0625": 0.03,
    "eden": 0.04,
    "eden@bits=3": 0.1,
    "powersgd@rank=2": 0.13,
}


def model():
    return filled(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))


def clients():
    x, y = digits()
    return [TensorDataset(x[i : i + 300], y[i : i + 300]) for i in range(0, 1200, 300)]


@pytest.mark.parametrize("method", LEARN)
def test_a_method_for_slow_links_learns_with_a_small_share_of_the_bytes(method):
    x, y = digits()
    rounds, trained = 12, model()
    result = fb.federate(trained, clients(), method, rounds, test=TensorDataset(x[1300:], y[1300:]), local=LOCAL)
    assert (result.accuracy or 0) > 0.8
    dense = 4 * sum(p.numel() for p in trained.parameters()) * 4 * rounds
    assert result.ledger.frame_bytes["up"] < LEARN[method] * dense


@pytest.mark.parametrize("method", ["sparseloco", "demo", "eden"])
def test_two_processes_give_the_same_model_as_one(method):
    models = [model(), model()]
    for processes, one in enumerate(models, start=1):
        fb.federate(one, clients(), method, 3, per_round=3, local=LOCAL, processes=processes)
    for a, b in zip(*(one.parameters() for one in models), strict=True):
        assert torch.equal(a, b)
