"""A data set: four arrays that all clients share, with the shape and the classes that a model needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from fewbits.checks import check_whole


@dataclass(frozen=True)
class Scale:
    """What a column of numbers to predict was scaled by: y = (value - mean) / deviation."""

    column: str
    mean: float  # of the training rows
    deviation: float  # their standard deviation


@dataclass(frozen=True, eq=False)
class Data:
    """Training and test examples as whole arrays; a client is a list of rows.

    Images are (n, channels, height, width): uint8 pixels, which `fewbits.learn.local.select` turns into floats in
    [-1, 1], or float32 in that range. In memory they are channels_last. Text is (n, 80) int64 character numbers with
    targets of the same shape.
    """

    train_x: Tensor  # (n, ...)
    train_y: Tensor  # (n,) int64 class numbers, or (n, time); (n, 1) float32 numbers to predict
    test_x: Tensor  # (m, ...)
    test_y: Tensor  # (m,) or (m, time), or (m, 1)
    classes: int  # number of classes, or of characters; 1: a number is predicted
    name: str
    groups: np.ndarray | None = None  # (n,) int64: the natural owner of each training example
    scale: Scale | None = None  # of the number to predict; None: classes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example: (channels, height, width) or (time,)."""
        return tuple(self.train_x.shape[1:])

    def first(self, limit: int | None) -> Data:
        """At most `limit` training and `limit` test examples, the first ones; None: all. LocalError below 1."""
        if limit is None:
            return self
        check_whole("load: limit", limit, 1, numpy=True)
        parts = {name: getattr(self, name)[:limit] for name in ("train_x", "train_y", "test_x", "test_y")}
        return replace(self, **parts, groups=None if self.groups is None else self.groups[:limit])
