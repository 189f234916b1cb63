"""Back to plain modules, for whoever only wants to run the model."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from fewbits.errors import LocalError
from fewbits.factor import compose_once
from fewbits.factor.layers import DENSE, ORDER, Place, chains, factored
from fewbits.factor.names import MARK

Model = TypeVar("Model", bound=nn.Module)


@torch.no_grad()
def merge(model: Model) -> Model:
    """A copy of the model with plain modules and composed weights; the model itself stays as it is.

    The copy needs no fewbits, has the plain model's state_dict, and can be pickled. LocalError when nothing is
    factored, or when another parametrization was stacked on a factored layer.
    """
    plain = copy.deepcopy(model)
    places = list(factored(plain))
    if not places:
        raise LocalError(f"merge: no weight of this {type(model).__name__} is factored")
    layers = {id(place.module): [p for p, _ in places if p.module is place.module] for place, _ in places}
    for own in layers.values():
        _refuse_others(own)
    composed = {id(owner): _parameter(owner) for _, owner in places}
    composed_at = {(id(place.module), place.attribute): composed[id(owner)] for place, owner in places}
    for own in layers.values():
        _make_plain(own[0].module, {p.attribute: composed_at[id(p.module), p.attribute] for p in own})
    for module in plain.modules():
        compose_once.detach(module)
        for mark in (ORDER, DENSE, MARK):
            module.__dict__.pop(mark, None)
    return plain


def _parameter(owner: nn.Module) -> nn.Parameter:
    return nn.Parameter(owner().contiguous(), requires_grad=any(p.requires_grad for p in owner.parameters()))


def _refuse_others(own: list[Place]) -> None:
    present = chains(own[0].module)
    strange = present.keys() - {place.attribute for place in own}
    strange |= {place.attribute for place in own if len(present[place.attribute]) > 1}
    if strange:
        raise LocalError(f"merge: {own[0].name}: remove the other parametrization of {sorted(strange)[0]} first")


def _make_plain(module: nn.Module, weights: dict[str, nn.Parameter]) -> None:
    """Parameters instead of factors, in the plain layer's order.

    Not by `remove_parametrizations`: it takes the property off the class, which a deep copy shares with its original.
    """
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    present = {**module._parameters, **weights}
    module._parameters.clear()
    for name in getattr(module, ORDER):
        module.register_parameter(name, present[name])
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()
