"""Models by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from fewbits.choices import unknown
from fewbits.errors import LocalError
from fewbits.models.char_lstm import CharLSTM
from fewbits.models.convolutional import cnn, simcnn
from fewbits.models.mlp import linear, mlp
from fewbits.models.resnet import resnet8
from fewbits.models.vgg16 import VGG16
from fewbits.rng import Key

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """One model."""

    make: Callable[[Shape, int], nn.Module]  # from the shape of an example and the number of classes
    data: str  # the data set that it is built for by default
    dimensions: int | None = 3  # of an example: 3 for images, 1 for text; None: any


MODELS: Mapping[str, Entry] = {
    "mlp": Entry(mlp, "digits", None),
    "linear": Entry(linear, "digits", None),
    "cnn": Entry(cnn, "mnist"),
    "simcnn": Entry(simcnn, "cifar10"),
    "resnet8": Entry(resnet8, "cifar10"),
    "vgg16": Entry(VGG16, "cifar10"),
    "charlstm": Entry(CharLSTM, "shakespeare", 1),
}
NAMES = tuple(MODELS)


class Examples(Protocol):
    """The part of a data set that a model needs; `fewbits.data.Data` and `DataInfo` have it."""

    @property
    def shape(self) -> Shape:
        """Shape of one example: (channels, height, width), or (time,) for text."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes, or of characters."""
        ...


def build(name: str, data: Examples, key: Key) -> nn.Module:
    """A new model for the data, with weights drawn from the key.

    The state of torch's global generator is as before.

    Args:
        name: one of `NAMES`.
        data: gives the shape of an example and the number of classes.
        key: the same key gives the same weights.

    Raises:
        LocalError: the name is unknown, or the model does not take examples of this shape.

    >>> from fewbits.data import data_info
    >>> sum(p.numel() for p in build("mlp", data_info("mnist"), Key(0)).parameters())
    101770
    """
    entry = model_entry(name)
    if entry.dimensions not in (None, len(data.shape)):
        kind = "text (time,)" if entry.dimensions == 1 else "images (channels, height, width)"
        raise LocalError(f"build: {name} takes {kind}; got examples of shape {tuple(data.shape)}")
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(key.word() & (2**63 - 1))
        return entry.make(tuple(data.shape), data.classes)


def model_entry(name: str) -> Entry:
    """The entry of that name; LocalError lists the names."""
    if name not in MODELS:
        raise unknown("model", name, NAMES)
    return MODELS[name]
