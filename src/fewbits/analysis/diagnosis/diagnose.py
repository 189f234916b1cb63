"""The diagnosis of one model on one data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from fewbits.analysis.diagnosis.central import Accumulator, Central, Watch
from fewbits.analysis.diagnosis.gradients import Directions, gram, growth, top_energy
from fewbits.analysis.diagnosis.subspace import Point, intrinsic_dimension, isotropy, rates, train_in
from fewbits.codecs import Basis
from fewbits.errors import LocalError
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.one_thread import one_thread
from fewbits.rng import Key

THRESHOLD = 0.2  # LBGM's default
MOST_LR = 1e20  # D/d times as much is a float32
FRACTION = 0.05  # top-k's default


@dataclass(frozen=True)
class Diagnosis:
    """The figures of a diagnosis."""

    parameters: int  # D
    accuracy: float  # of training all parameters, after the last epoch
    epochs: int
    steps: int  # per epoch
    lr: float  # of the full training
    epoch: Directions  # of gradients summed over whole epochs
    growth: tuple[tuple[int, int], ...]  # components for 95% and 99% of the first 1, 2, ... of them
    block: Directions  # of gradients summed over parts of epochs
    blocks: int  # parts per epoch
    top_energy: float  # share of a block's |g|^2 in its largest entries, median over blocks
    fraction: float  # the share of these entries
    basis: str  # kind of the random bases
    points: tuple[Point, ...]  # ascending in dim
    d90: int | None  # least dim tried with 90% of the full accuracy
    d99: int | None  # with 99%

    def effective_step(self, point: Point) -> float:
        """The length of a step with the point's learning rate along g, in units of |g|."""
        return Basis(self.parameters, point.dim, Key(0)).effective_step(point.lr)


def trainings(dims: Sequence[int], numel: int) -> int:
    """How often a model of `numel` parameters is trained; `watch` is called after each epoch of each training."""
    return 1 + sum(len(rates(numel, dim)) for dim in set(dims))


def diagnose(
    module: nn.Module,
    central: Central,
    dims: Sequence[int],
    key: Key,
    blocks: int = 4,
    basis: str = "fastfood",
    watch: Watch | None = None,
) -> Diagnosis:
    """Train all parameters, then along each number of random directions, always from the same start.

    The module is left with all parameters trained. One torch thread is used: the same arguments give the same figures.

    Args:
        module: the model, with its initial weights.
        central: the data, and how to train.
        dims: numbers of random directions, each from 1 to the number of parameters.
        key: of the random bases.
        blocks: parts of an epoch whose gradients are stored.
        basis: kind of the random bases.
        watch: called after every epoch with the name of the training.

    Raises:
        LocalError: a dimension or the number of blocks is out of range, or a training diverges.

    >>> import torch
    >>> from fewbits.learn import LocalSGD
    >>> x, y = torch.eye(6), torch.arange(6) % 2
    >>> central = Central(x, y, x, y, LocalSGD(lr=0.5, batch_size=3), epochs=2, key=Key(0))
    >>> found = diagnose(nn.Linear(6, 2), central, [2, 8], Key(1), blocks=2)
    >>> found.parameters, [point.dim for point in found.points]
    (14, [2, 8])
    """
    model = FlatModel(module)
    size = len(model.params)
    if central.sgd.lr > MOST_LR:
        raise LocalError(f"diagnose: lr is at most {MOST_LR:g}; got {central.sgd.lr}")
    found = bases(size, dims, key, basis)
    gradients = Accumulator(size, central.epochs, central.steps, blocks)
    with one_thread():
        start = model.vector()
        loss = central.train(model, gradients, watch)
        if not math.isfinite(loss):
            raise LocalError(f"training diverged with lr = {central.sgd.lr}; give a smaller learning rate")
        trained, accuracy = model.vector(), central.accuracy(model)
        model.load_vector(start)
        by_epoch = gradients.rows.view(central.epochs, blocks, size).sum(1)
        products = gram(gradients.rows)
        of_epochs = _summed(products, blocks)
        points = tuple(_point(b, model, central, by_epoch, watch) for b in found)
        model.load_vector(trained)
    return Diagnosis(
        parameters=size,
        accuracy=accuracy,
        epochs=central.epochs,
        steps=central.steps,
        lr=central.sgd.lr,
        epoch=Directions.of(of_epochs, THRESHOLD),
        growth=growth(of_epochs),
        block=Directions.of(products, THRESHOLD),
        blocks=blocks,
        top_energy=top_energy(gradients.rows, FRACTION),
        fraction=FRACTION,
        basis=basis,
        points=points,
        d90=intrinsic_dimension(points, accuracy, 0.9),
        d99=intrinsic_dimension(points, accuracy, 0.99),
    )


def bases(numel: int, dims: Sequence[int], key: Key, kind: str) -> list[Basis]:
    """A basis for each dim, ascending; LocalError when a dim or the kind is not possible."""
    if not dims:
        raise LocalError("give one dimension or more to train along, such as 16,256")
    return [Basis(numel, dim, key.fold("basis", dim), kind) for dim in sorted(set(dims))]


def _point(basis: Basis, model: FlatModel, central: Central, rows: Tensor, watch: Watch | None) -> Point:
    median = float(np.median([isotropy(basis, row) for row in rows]))
    return replace(train_in(basis, model, central, watch), isotropy=median)


def _summed(products: np.ndarray, blocks: int) -> np.ndarray:
    """Inner products of the sums of each `blocks` neighbours."""
    n = len(products) // blocks
    return products.reshape(n, blocks, n, blocks).sum((1, 3))
