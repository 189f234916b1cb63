"""Five small tasks for benchmarks/budget.py: digits, MNIST, CIFAR-10 and plays, shared in five ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import fewbits as fb
from fewbits import data

Make = Callable[[int, int], nn.Module]  # from the channels of an image and the number of classes


@dataclass(frozen=True)
class Setting:
    """A task, and the budget that it is played with."""

    data: str
    split: str
    make: Make
    clients: int
    per_round: int
    batch_size: int
    examples: int  # for training
    budget: int = 100_000  # bytes, both directions


def wide(channels: int, classes: int) -> nn.Module:
    """64-64-10 on digits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, classes))


def deep(channels: int, classes: int) -> nn.Module:
    """64-48-24-10 on digits."""
    one, two = nn.Linear(64, 48), nn.Linear(48, 24)
    return nn.Sequential(nn.Flatten(), one, nn.ReLU(), two, nn.ReLU(), nn.Linear(24, classes))


def convolutions(channels: int, classes: int) -> nn.Module:
    """Two convolutions of stride 2 and two linear layers, for images of 14 to 16 pixels a side."""
    parts = [nn.Conv2d(channels, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*parts, nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, classes))


class Characters(nn.Module):
    """The next character, from the last nine ones by two causal convolutions."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, 16)
        self.one, self.two = nn.Conv1d(16, 32, 5), nn.Conv1d(32, 32, 5)
        self.last = nn.Conv1d(32, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time) -> (batch, classes, time)."""
        h = self.embedding(x).transpose(1, 2)
        for layer in (self.one, self.two):
            h = torch.relu(layer(nn.functional.pad(h, (4, 0))))
        return self.last(h)


SETTINGS = {
    "digits": Setting("digits", "iid", wide, 20, 5, 20, 1437),
    "digits, 2 classes each": Setting("digits", "classes:2", deep, 30, 6, 16, 1437),
    "mnist": Setting("mnist", "dirichlet:0.5", convolutions, 24, 5, 25, 1500),
    "cifar10": Setting("cifar10", "dirichlet:1", convolutions, 20, 5, 20, 1800),
    "plays": Setting("shakespeare", "natural", Characters, 12, 4, 10, 480, 150_000),
}
FOLDERS = {"shakespeare": "tinyshakespeare"}
TESTS = 500


def task_of(setting: Setting, lr: float, seed: int, folder: Path) -> fb.simulation.Task:
    """The clients' shares and the initial model of a seed."""
    key, found = fb.Key(seed), load(setting.data, folder)

    def build(key: fb.Key) -> nn.Module:
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(key.fold("model").word() >> 1)
            return setting.make(3 if setting.data == "cifar10" else 1, found.classes)

    local = fb.LocalSGD(lr=lr, batch_size=setting.batch_size)
    parts = _parts(setting, found, key)
    tests = found.test_x[:TESTS], found.test_y[:TESTS]
    return fb.simulation.Task(
        build(key), found.train_x, found.train_y, parts, *tests, local, seed=key, build=build
    )  # fmt: skip


@cache
def load(name: str, folder: Path) -> data.Data:
    """A data set; the first images of MNIST and CIFAR-10 at half their side."""
    found = data.load(name, folder / FOLDERS.get(name, name))
    if name not in ("mnist", "cifar10"):
        return found
    found = found.first(2000)
    halves = {part: _half(getattr(found, part)) for part in ("train_x", "test_x")}
    return replace(found, **halves)


def _half(images: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(images.float() / 127.5 - 1, 2)


def _parts(setting: Setting, found: data.Data, key: fb.Key) -> list[np.ndarray]:
    if setting.split == "natural":  # the clients with most rows, as many of each
        assert found.groups is not None
        parts = data.partition(found.train_y, "natural", int(found.groups.max()) + 1, key, found.groups)
        most = sorted(parts, key=len, reverse=True)[: setting.clients]
        return [part[: setting.examples // setting.clients] for part in most]
    labels = found.train_y[: setting.examples]
    return data.partition(labels, setting.split, setting.clients, key.fold("partition"))
