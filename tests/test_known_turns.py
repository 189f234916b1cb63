"""What a turn spares itself where torch's code and this package's alone run, and frames that need no copy."""

import numpy as np
import pytest
import torch
from torch import nn

from fewbits import Key, LocalSGD
from fewbits.engines.common.local_turn import train_locally
from fewbits.engines.common.task import Task
from fewbits.engines.simulation.frame_room import ROOM, FrameRoom
from fewbits.federated.local_round import LocalRound
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.objectives import Plain


def address(memory):
    return np.frombuffer(memory, np.uint8).__array_interface__["data"][0]


def test_a_frame_whose_payload_is_the_update_lies_where_the_update_lies():
    room = FrameRoom(5)
    room.update.copy_(torch.arange(5.0))
    pieces = [b"head", b"sum", room.update.numpy().data.cast("B")]
    joined = b"".join(pieces)
    (frame,) = room.joined(pieces)
    assert bytes(frame) == joined
    assert address(frame) + 7 == room.update.data_ptr()


@pytest.mark.parametrize(
    "head, payload",
    [
        (b"h", lambda room: room.update.clone()),
        (b"h", lambda room: room.update[1:]),
        (b"h" * (ROOM + 1), lambda room: room.update),
    ],
    ids=["a copy", "a part", "a long header"],
)
def test_any_other_frame_stays_in_pieces(head, payload):
    room = FrameRoom(5)
    pieces = [head, payload(room).numpy().data.cast("B")]
    assert room.joined(pieces) is pieces


class Doubled(nn.Linear):
    """Somebody's layer."""


class Weight(nn.Parameter):
    """Somebody's tensor: its operations may run anything."""


def of_somebody(*sizes):
    layer = nn.Linear(*sizes)
    layer.weight = Weight(layer.weight.data)
    return layer


def with_own(name):
    def make(*sizes):
        layer = nn.Linear(*sizes)
        setattr(layer, name, getattr(layer, name))
        return layer

    return make


def somebodys_loss(output, y):
    return nn.functional.cross_entropy(output, y)


@pytest.mark.parametrize(
    "layer, loss, known",
    [
        (nn.Linear, None, True),
        (Doubled, None, False),
        (of_somebody, None, False),
        (with_own("train"), None, False),
        (with_own("_call_impl"), None, False),
        (nn.Linear, somebodys_loss, False),
    ],
)
def test_only_turns_of_known_code_go_unwatched(layer, loss, known):
    task = Task(layer(3, 2), torch.randn(4, 3), torch.arange(4) % 2, [np.arange(4)], local=LocalSGD(lr=0.1), loss=loss)
    model = FlatModel(task.model)
    train_locally(task, model, 0, 1, Key(0))
    assert model.undisturbed == known


def test_a_replaced_layer_is_seen_by_the_turn_after_an_unwatched_one():
    task = Task(nn.Linear(3, 2), torch.randn(4, 3), torch.arange(4) % 2, [np.arange(4)], local=LocalSGD(lr=0.1))
    model = FlatModel(task.model)
    local = LocalRound(model, Plain())
    public, state = model.shared.clone(), local.new_state()
    local.load(public, state)
    train_locally(task, model, 0, 1, Key(0))
    local.finish(public, state, 0, 0.0, torch.empty_like(public))
    assert not model.undisturbed
    task.model.weight = nn.Parameter(torch.ones(2, 3))
    local.load(public, state)
    assert torch.equal(torch.cat([task.model.weight.reshape(-1), task.model.bias]), public)
