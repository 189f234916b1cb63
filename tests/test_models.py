"""The models: exact sizes, outputs that fit the loss, weights from the key alone."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from fewbits.errors import LocalError
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.local import LocalSGD
from fewbits.models import NAMES, build
from fewbits.rng import Key


@dataclass(frozen=True)
class Task:
    shape: tuple[int, ...]
    classes: int = 10


DIGITS, MNIST, CIFAR, TEXT = Task((1, 8, 8)), Task((1, 28, 28)), Task((3, 32, 32)), Task((12,), 65)


@pytest.mark.parametrize(
    "name,task,size",
    [
        ("mlp", MNIST, 101_770),  # 784-128-10
        ("cnn", MNIST, 431_080),  # LBGM, official code
        ("vgg16", CIFAR, 15_253_578),  # FedPara, tables 4 and 9
        ("cnn", CIFAR, 657_080),  # LBGM, official code
        ("simcnn", CIFAR, 282_250),
        ("resnet8", CIFAR, 77_850),
        ("charlstm", TEXT, 815_945),
    ],
)
def test_sizes_are_exact(name, task, size):
    assert sum(p.numel() for p in build(name, task, Key(0)).parameters()) == size


@pytest.mark.parametrize("name", [name for name in NAMES if name != "charlstm"])
@pytest.mark.parametrize("task", [DIGITS, MNIST, CIFAR], ids=["digits", "mnist", "cifar10"])
def test_image_models_give_a_logit_per_class_for_every_image_set(name, task):
    assert build(name, task, Key(0))(torch.zeros(2, *task.shape)).shape == (2, 10)


def test_charlstm_gives_logits_per_position():
    assert build("charlstm", TEXT, Key(0))(torch.zeros(2, 12, dtype=torch.long)).shape == (2, 65, 12)


@pytest.mark.parametrize("name", NAMES)
def test_weights_come_from_the_key_and_the_global_generator_is_untouched(name):
    task = TEXT if name == "charlstm" else DIGITS
    before = torch.get_rng_state()
    a, b, c = (FlatModel(build(name, task, Key(seed))).vector() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_trained(name):
    task = TEXT if name == "charlstm" else DIGITS
    model = FlatModel(build(name, task, Key(0)))
    shape = (20, *task.shape)
    generator = torch.Generator().manual_seed(0)
    if name == "charlstm":
        x = torch.arange(240).view(shape) % 65
        y = (x + 1) % 65
    else:
        x, y = torch.randn(shape, generator=generator), torch.arange(20) % 10
    before = {key: value.clone() for key, value in model.named().items()}
    LocalSGD(lr=0.1, batch_size=0).train(model, x, y, np.arange(20), Key(0))
    assert [key for key, value in model.named().items() if torch.equal(value, before[key])] == []


@pytest.mark.parametrize(
    "name,task,match",
    [
        ("vgg", MNIST, "linear, cnn"),
        ("cnn", TEXT, "images"),
        ("charlstm", MNIST, "text"),
        ("cnn", Task((1, 3, 3)), "4x4"),
    ],
)
def test_bad_names_and_shapes_are_sentences(name, task, match):
    with pytest.raises(LocalError, match=match):
        build(name, task, Key(0))
