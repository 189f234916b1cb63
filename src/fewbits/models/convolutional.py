"""Two convolutions and two linear layers, in the two sizes that others' figures are given for.

Pooling comes before relu: the same function (both are monotone), with a quarter of the work in relu.
"""

from __future__ import annotations

from torch import nn

from fewbits.errors import LocalError


def cnn(shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """LBGM's CNN (Azam et al. 2022, official code): 431,080 parameters on MNIST, 657,080 on CIFAR-10.

    conv5x5(20)-pool-relu-conv5x5(50)-pool-relu-500-classes without padding. Images under 16 pixels are too small
    for that; there, and only there, the convolutions pad by 2.
    """
    channels, height, width = shape
    padding = 2 if min(height, width) < 16 else 0
    cut = 0 if padding else 4  # pixels that one convolution takes off
    height, width = (((side - cut) // 2 - cut) // 2 for side in (height, width))
    _check("cnn", shape, height, width)
    return nn.Sequential(
        *_convolution(channels, 20, 5, padding),
        *_convolution(20, 50, 5, padding),
        nn.Flatten(),
        nn.Linear(50 * height * width, 500),
        nn.ReLU(),
        nn.Linear(500, classes),
    )  # (batch, classes)


def simcnn(shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """The CNN of the simulation benchmark: 282,250 parameters on CIFAR-10.

    conv3x3(32)-pool-relu-conv3x3(64)-pool-relu-64-classes, padded.
    """
    channels, height, width = shape
    _check("simcnn", shape, height // 4, width // 4)
    return nn.Sequential(
        *_convolution(channels, 32, 3, 1),
        *_convolution(32, 64, 3, 1),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )  # (batch, classes)


def _convolution(inputs: int, outputs: int, side: int, padding: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, side, padding=padding), nn.MaxPool2d(2), nn.ReLU()


def _check(name: str, shape: tuple[int, ...], height: int, width: int) -> None:
    if min(height, width) < 1:
        raise LocalError(f"build: {name} needs images of 4x4 or more; got {shape}")
