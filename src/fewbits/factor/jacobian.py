"""Jacobian correction of FedPara: a loss term that makes a step on the factors act like a step on the weight."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fewbits.errors import LocalError
from fewbits.factor.factors import Factors
from fewbits.factor.layers import factored


def jacobian_correction(
    model: nn.Module, loss: Callable[[], Tensor], lr: float, strength: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Compute the loss and the Jacobian correction of FedPara; differentiate their sum.

    ``(strength/2) sum |W' - (W - lr J_W)|^2``. J_W is the gradient of the loss with respect to the composed weight W,
    taken as a constant. W' is composed of the factors after one step, ``X - lr J_X``, where J_X follows from J_W by the
    chain rule. It costs about one more backward pass, and each layer is composed twice more.

    Args:
        model: a model with factored weights.
        loss: runs the model's forward once and returns a scalar tensor.
        lr: the learning rate of the step.
        strength: weight of the correction; larger: the factors follow the dense step more closely.

    Returns:
        (loss, correction), two scalar tensors.

    Raises:
        LocalError: no weight of the model is factored, or the loss depends on none of the factored weights.

    Example:
        >>> from fewbits import fedpara
        >>> model = fedpara(nn.Linear(64, 64), gamma=0.1)
        >>> x = torch.ones(4, 64)
        >>> value, correction = jacobian_correction(model, lambda: model(x).square().mean(), lr=0.1)
        >>> (value + correction).backward()

    References:
        Hyeon-Woo, Ye-Bin and Oh, FedPara, ICLR 2022, supplement. Their ablation finds no gain; hence it is optional.
    """
    owners: dict[int, Factors] = {}
    with parametrize.cached():  # the gradient must be of the weights that the forward used
        value = loss()
        composed = {}
        for place, owner in factored(model):
            if id(owner) not in owners:
                owners[id(owner)] = owner
                composed[id(owner)] = getattr(place.module, place.attribute)
    if not owners:
        raise LocalError(f"jacobian_correction: no weight of this {type(model).__name__} is factored")
    weights = [composed[number] for number in owners]
    steps = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
    if all(step is None for step in steps):
        raise LocalError("jacobian_correction: the loss depends on no factored weight of the model")
    terms = [
        _mismatch(owner, weight, step, lr)
        for owner, weight, step in zip(owners.values(), weights, steps, strict=True)
        if step is not None
    ]
    return value, strength / 2 * torch.stack(terms).sum()


def _mismatch(owner: Factors, weight: Tensor, step: Tensor, lr: float) -> Tensor:
    """Return |W' - (W - lr J_W)|^2 of one weight."""
    names, factors = zip(*owner.named_parameters(), strict=True)
    grads = torch.autograd.grad(weight, factors, step, create_graph=True)
    moved = {name: x - lr * g for name, x, g in zip(names, factors, grads, strict=True)}
    return (torch.func.functional_call(owner, moved, ()) - weight + lr * step).square().sum()
