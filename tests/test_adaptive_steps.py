"""LBGM's adaptive rule is refused where clients take other steps than those that it counts on."""

import pytest
import torch

import fewbits as fb

RULE = "lbgm@threshold=adaptive:1:0.1:{steps}"
MANY, FEW = (torch.zeros(30, 2), torch.zeros(30, dtype=torch.int64)), (torch.zeros(10, 2), torch.zeros(10).long())


def train(clients, method, **local):
    return fb.federate(torch.nn.Linear(2, 2), clients, method, 1, local=fb.LocalSGD(lr=0.1, **local))


@pytest.mark.parametrize("local", [{}, {"epochs": 2}, {"batch_size": 0, "steps": 4}])
def test_clients_that_take_the_steps_of_the_rule_are_trained(local):
    steps = local.get("steps") or 3 * local.get("epochs", 1)
    assert len(train([MANY] * 2, RULE.format(steps=steps), **local).reports) == 1


@pytest.mark.parametrize("method", [RULE, "lbgm+topk@threshold=adaptive:1:0.1:{steps},fraction=0.5"])
def test_a_client_of_another_size_is_refused_by_its_number(method):
    sentence = r"clients that take 3 steps of size 0\.1; client 1 takes 1 of 0\.1"
    with pytest.raises(fb.LocalError, match=sentence):
        train([MANY, FEW], method.format(steps=3))


def test_another_step_size_is_refused():
    with pytest.raises(fb.LocalError, match=r"size 0\.1; client 0 takes 3 of 0\.5"):
        fb.federate(torch.nn.Linear(2, 2), [MANY], RULE.format(steps=3), 1, local=fb.LocalSGD(lr=0.5))


def test_a_loop_by_hand_that_says_its_steps_is_checked_too():
    method = RULE.format(steps=3)
    server = fb.Server(torch.nn.Linear(2, 2), method, fb.Key(0))
    client = fb.Client(torch.nn.Linear(2, 2), method, fb.Key(1), number=7)
    client.receive(server.bundle(7))
    with pytest.raises(fb.LocalError, match=r"client 7 takes 4 of 0\.1"):
        client.reply(steps=4, lr=0.1)
    assert server.accept(7, client.reply(steps=3, lr=0.1), 1.0) is not None
