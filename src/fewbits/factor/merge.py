"""Merge factors into plain weights, for inference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar, cast

import torch
from torch import nn

from fewbits.errors import LocalError
from fewbits.factor import compose_once
from fewbits.factor.adapters import merge_adapters
from fewbits.factor.coordinates import coordinates, leave_subspace
from fewbits.factor.derived import duplicate
from fewbits.factor.layers import DENSE, ORDER, Place, chains, factored
from fewbits.factor.loha import LoHaWeight
from fewbits.factor.names import MARK

Model = TypeVar("Model", bound=nn.Module)


@torch.no_grad()
def merge(model: Model) -> Model:
    """Copy a factored model, or one inside a subspace, as plain modules; adapters of PEFT are merged, too.

    The copy does not need fewbits, has the plain model's state_dict, and can be pickled. The factored model does not
    change.

    Args:
        model: a model with factored weights, or with adapters: a `peft.PeftModel`, or what `from_loha` made.

    Returns:
        A model of the plain class; of a `peft.PeftModel` the model that it was made of.

    Raises:
        LocalError: there is nothing to merge, a factored layer has another parametrization, or an adapted weight is
            tied to another layer's.

    Example:
        >>> from fewbits import fedpara
        >>> layer = fedpara(nn.Linear(64, 64), gamma=0.1)
        >>> merge(layer)
        Linear(in_features=64, out_features=64, bias=True)
    """
    if is_plain(model):
        raise LocalError(f"merge: no weight of this {type(model).__name__} is factored or has a LoRA or LoHa adapter")
    plain = leave_subspace(duplicate(model))
    places, adapted = list(factored(plain)), list(_adapted(plain))
    for name, module in adapted:
        _merge_adapter(name, module)
    layers = {id(place.module): [p for p, _ in places if p.module is place.module] for place, _ in places}
    for layer in layers.values():
        _refuse_others(layer)
    composed = {id(owner): _parameter(owner) for _, owner in places}
    composed_at = {(id(place.module), place.attribute): composed[id(owner)] for place, owner in places}
    for layer in layers.values():
        module, weights = layer[0].module, {p.attribute: composed_at[id(p.module), p.attribute] for p in layer}
        _make_plain(module, getattr(module, ORDER), weights)
    for module in plain.modules():
        compose_once.detach(module)
        for mark in (ORDER, DENSE, MARK):
            module.__dict__.pop(mark, None)
    return cast("Model", merge_adapters(plain)) if _is_peft(plain) else plain


def is_plain(model: nn.Module) -> bool:
    """Whether there is nothing to merge: no factors, no adapter and no subspace.

    >>> is_plain(nn.Linear(2, 1))
    True
    """
    return coordinates(model) is None and not any(factored(model)) and not any(_adapted(model)) and not _is_peft(model)


def _is_peft(model: nn.Module) -> bool:
    return hasattr(model, "merge_and_unload")


def _adapted(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every layer with a LoHa adapter, by name."""
    for name, module in model.named_modules():
        if any(isinstance(part, LoHaWeight) for chain in chains(module).values() for part in chain):
            yield name, module


def _merge_adapter(name: str, module: nn.Module) -> None:
    """Put W0 + scale * delta in the place of W0."""
    if [len(chain) for chain in chains(module).values()] != [1]:
        raise LocalError(f"merge: {name}: remove the other parametrizations of an adapted layer first")
    composed = module.parametrizations["weight"]()  # pyright: ignore
    _make_plain(module, ["weight", *module._parameters], {"weight": nn.Parameter(composed.detach().clone())})


def _parameter(owner: nn.Module) -> nn.Parameter:
    return nn.Parameter(owner().contiguous(), requires_grad=any(p.requires_grad for p in owner.parameters()))


def _refuse_others(layer: list[Place]) -> None:
    present = chains(layer[0].module)
    strange = present.keys() - {place.attribute for place in layer}
    strange |= {place.attribute for place in layer if len(present[place.attribute]) > 1}
    if strange:
        raise LocalError(f"merge: {layer[0].name}: remove the other parametrization of {sorted(strange)[0]} first")


def _make_plain(module: nn.Module, order: Sequence[str], weights: dict[str, nn.Parameter]) -> None:
    """Put parameters in the place of factors, in the plain layer's order.

    `remove_parametrizations` would not do: it removes the property from the class, which the original model shares.
    """
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    present = {**module._parameters, **weights}
    module._parameters.clear()
    for name in order:
        module.register_parameter(name, present[name])
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()
