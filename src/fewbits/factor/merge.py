"""Merge factors into plain weights, for inference."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from fewbits.errors import LocalError
from fewbits.factor import compose_once
from fewbits.factor.derived import duplicate
from fewbits.factor.layers import DENSE, ORDER, Place, chains, factored
from fewbits.factor.names import MARK

Model = TypeVar("Model", bound=nn.Module)


@torch.no_grad()
def merge(model: Model) -> Model:
    """Copy a factored model as plain modules with composed weights.

    The copy does not need fewbits, has the plain model's state_dict, and can be pickled. The factored model does not
    change.

    Args:
        model: a model with factored weights.

    Returns:
        A model of the plain class.

    Raises:
        LocalError: no weight is factored, or a factored layer has another parametrization.

    Example:
        >>> from fewbits import fedpara
        >>> layer = fedpara(nn.Linear(64, 64), gamma=0.1)
        >>> merge(layer)
        Linear(in_features=64, out_features=64, bias=True)
    """
    plain = duplicate(model)
    places = list(factored(plain))
    if not places:
        raise LocalError(f"merge: no weight of this {type(model).__name__} is factored")
    layers = {id(place.module): [p for p, _ in places if p.module is place.module] for place, _ in places}
    for layer in layers.values():
        _refuse_others(layer)
    composed = {id(owner): _parameter(owner) for _, owner in places}
    composed_at = {(id(place.module), place.attribute): composed[id(owner)] for place, owner in places}
    for layer in layers.values():
        _make_plain(layer[0].module, {p.attribute: composed_at[id(p.module), p.attribute] for p in layer})
    for module in plain.modules():
        compose_once.detach(module)
        for mark in (ORDER, DENSE, MARK):
            module.__dict__.pop(mark, None)
    return plain


def _parameter(owner: nn.Module) -> nn.Parameter:
    return nn.Parameter(owner().contiguous(), requires_grad=any(p.requires_grad for p in owner.parameters()))


def _refuse_others(layer: list[Place]) -> None:
    present = chains(layer[0].module)
    strange = present.keys() - {place.attribute for place in layer}
    strange |= {place.attribute for place in layer if len(present[place.attribute]) > 1}
    if strange:
        raise LocalError(f"merge: {layer[0].name}: remove the other parametrization of {sorted(strange)[0]} first")


def _make_plain(module: nn.Module, weights: dict[str, nn.Parameter]) -> None:
    """Put parameters in the place of factors, in the plain layer's order.

    `remove_parametrizations` would not do: it removes the property from the class, which the original model shares.
    """
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    present = {**module._parameters, **weights}
    module._parameters.clear()
    for name in getattr(module, ORDER):
        module.register_parameter(name, present[name])
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()
