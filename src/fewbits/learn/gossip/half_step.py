"""The half step of a node: its local training, with momentum, from its model to x_half."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from fewbits.errors import LocalError
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.gossip.vectors import Vectors

Train = Callable[[FlatModel], float]  # trains in place; returns eta = learning rate * steps; 0: no step was taken


class HalfStep(NamedTuple):
    """What local training changed."""

    half: Tensor  # (S,) x_half of the shared numbers
    velocity: Tensor  # (S,) momentum; (0,) without momentum
    eta: float  # learning rate times steps


def half_step(train: Train, model: FlatModel, vectors: Vectors, x: Tensor, momentum: float) -> HalfStep:
    """Train the model from x, (P+B,); `vectors` stay as they are."""
    model.attach()
    model.whole.copy_(x)
    eta = float(train(model))
    if not 0 <= eta < float("inf"):
        raise LocalError(f"Node.step: train must return eta = learning rate * steps, 0 or more; got {eta}")
    changed = model.attach()  # first, so that no tensor which the training replaced comes back
    if eta:
        model.leave_out(changed, x)
    else:
        model.whole.copy_(x)
    half = model.shared.cpu()
    if not momentum or not eta:
        return HalfStep(half, vectors.velocity, eta)
    first = len(model.private[0])
    before = x[first : first + len(half)].cpu()
    velocity = (vectors.velocity * momentum).add_(before - half)
    return HalfStep(before - velocity, velocity, eta)
