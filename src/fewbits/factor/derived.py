"""Tensors that a module computes from its parameters before each forward pass, as weight_norm and prune do."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from fewbits.factor.coordinates import PLACED, Coordinates

Model = TypeVar("Model", bound=nn.Module)


def duplicate(module: Model) -> Model:
    """A deep copy, also of a module with derived tensors, which torch refuses to copy.

    Example:
        >>> from torch.nn.utils import prune
        >>> layer = prune.l1_unstructured(nn.Linear(4, 2), "weight", 0.5)
        >>> type(layer.weight), type(duplicate(layer).weight)
        (<class 'torch.Tensor'>, <class 'torch.Tensor'>)
    """
    memo: dict[int, object] = {}
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()  # the next forward pass computes it again
    copied = copy.deepcopy(module, memo)
    make_leaves(copied)
    return copied


def make_leaves(module: nn.Module) -> None:
    """Let every parameter be a leaf again; a copy of a TorchScript module computes its own from the first one's."""
    for parameter in module.parameters():
        if not parameter.is_leaf:
            parameter.detach_().requires_grad_()


def is_derived(part: nn.Module, name: str) -> bool:
    """Whether a tensor of a module is computed from parameters: of that module, or of a subspace."""
    return name in vars(part).get(PLACED, ()) or any(f"{name}{end}" in part._parameters for end in ("_orig", "_g"))


@torch.no_grad()
def refresh_derived(module: nn.Module) -> None:
    """Compute them from the parameters of now, as the next forward pass would."""
    for part in module.modules():
        for hook in getattr(part, "_forward_pre_hooks", {}).values():
            if isinstance(hook, WeightNorm | BasePruningMethod | Coordinates):
                hook(part, ())
            elif isinstance(hook, SpectralNorm):
                setattr(part, hook.name, hook.compute_weight(part, do_power_iteration=False))
