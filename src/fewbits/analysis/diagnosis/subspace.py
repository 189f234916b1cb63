"""The number of random directions that training needs: intrinsic dimension (Li et al. 2018, arXiv 1804.08838)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from fewbits.analysis.diagnosis.central import Central, Watch
from fewbits.codecs import Basis
from fewbits.errors import LocalError
from fewbits.learn.flat_model import FlatModel

POWERS = (0.0, 0.5, 1.0)  # learning rates tried: the full one times (D/d)^power


@dataclass(frozen=True)
class Point:
    """Training in one subspace."""

    dim: int  # d
    accuracy: float  # on the test examples, after the last epoch
    loss: float  # mean over the training examples, then
    lr: float  # learning rate of s, for columns of length 1; the one with the least training loss of those tried
    isotropy: float  # of the gradients of the full training in this subspace, median


def isotropy(basis: Basis, g: Tensor) -> float:
    """(D/d) |A^T g|^2 / |g|^2, with columns of length 1: the part of g in the subspace, 1 for a random direction.

    A value well below 1 in many rounds means that the subspace misses a common direction of the gradients; another seed
    may be better. It is 0 when g is zero. g: (D,)
    """
    return basis.captured(g)


def rates(numel: int, dim: int) -> tuple[float, ...]:
    """Learning rates to try for s, as multiples of the full training's."""
    return tuple(dict.fromkeys((numel / dim) ** power for power in POWERS))


def train_in(basis: Basis, model: FlatModel, central: Central, watch: Watch | None = None) -> Point:
    """Train theta = theta0 + A s from the current model with three learning rates, and take the best.

    s moves along A^T g, so theta moves along A A^T g; this is linear, also with momentum. A step of the full learning
    rate is d/D of a full step. (D/d) times the rate makes up for it, if the noise allows; the root is in between. The
    training loss decides, never the test accuracy. The model is left unchanged.

    LocalError when every rate diverges.
    """
    start = model.vector()
    best: Point | None = None
    for factor in rates(basis.numel, basis.dim):
        lr = central.sgd.lr * factor
        loss = replace(central, sgd=replace(central.sgd, lr=lr)).train(
            model, lambda m: _project_(basis, m), watch, f"d = {basis.dim}"
        )
        if math.isfinite(loss) and (best is None or loss < best.loss):
            best = Point(basis.dim, central.accuracy(model), loss, lr, 0.0)
        model.load_vector(start)
    if best is None:
        raise LocalError(f"training along {basis.dim} directions diverged; give a smaller learning rate")
    return best


def _project_(basis: Basis, model: FlatModel) -> None:
    """g := A A^T g."""
    model.grads.copy_(basis.expand(basis.project(model.grads)))


def intrinsic_dimension(points: Sequence[Point], full: float, share: float = 0.9) -> int | None:
    """The least dimension tried whose accuracy is at least `share` of the full one; None when none is.

    Li et al. call it d_int90 for share = 0.9. The curve is noisy and the list is coarse: read it as "between the one
    below in the list and this one".
    """
    reached = [point.dim for point in points if point.accuracy >= share * full]
    return min(reached, default=None)
