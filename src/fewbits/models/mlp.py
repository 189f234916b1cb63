"""A linear model, and a multilayer perceptron."""

from __future__ import annotations

import math

from torch import nn

HIDDEN = 128


def linear(shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """One linear layer, for examples of any shape: logistic or linear regression."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))  # (batch, classes)


def mlp(shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """One hidden layer of 128: 101,770 parameters on MNIST (784-128-10)."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(math.prod(shape), HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes)
    )  # (batch, classes)
