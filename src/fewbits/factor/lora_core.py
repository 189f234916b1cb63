"""Let a LoRA adapter of PEFT train a small core between fixed factors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fewbits.errors import LocalError

Model = TypeVar("Model", bound=nn.Module)


class FixedTimesCore(nn.Module):
    """Parametrization of LoRA's B: a fixed matrix times the core, which trains."""

    def __init__(self, fixed: Tensor) -> None:
        super().__init__()
        self.fixed = nn.Parameter(fixed, requires_grad=False)

    def forward(self, core: Tensor) -> Tensor:
        """B = U C.  # (r, r) -> (O, r)"""
        return self.fixed @ core


@torch.no_grad()
def lora_core(peft_model: Model, adapter: str = "default") -> Model:
    """Let the LoRA layers of a model train a core C of r x r numbers between fixed factors, in place.

    ``W = W0 + scale * U C V^T``. U and V are the first r singular vectors of W0, and C begins at 0. The update is
    linear in C, so the mean of the clients' cores is the mean of their weights, exactly: mean(U C_i V^T) =
    U mean(C_i) V^T. With LoRA itself the mean of factors is not the mean of their products. A layer sends r^2 numbers,
    where LoRA sends r (O + I).

    The model stays a PEFT model: its adapter can be merged. Every client needs the same U and V. These are frozen
    parameters, which never travel: make them once, and hand out the model that has them.

    Args:
        peft_model: a `peft.PeftModel`, or any model with PEFT's LoRA layers over matrices (O, I).
        adapter: name of the adapter.

    Returns:
        The model itself.

    Raises:
        LocalError: there is no such layer; or one is a convolution or an embedding, is quantised, has a rank above its
            smaller side, or has a core already.

    Example:
        >>> import peft  # doctest: +SKIP
        >>> model = lora_core(peft.get_peft_model(model, peft.LoraConfig(r=8)))  # doctest: +SKIP

    Source: Singhal et al., Fed-SB, 2025 (arXiv 2502.15436). Difference: there U and V come from a first update of the
    whole weight, and C begins as its singular values. Factors of W0 are those of LoRA-XS (Balazy et al. 2024).
    """
    layers = list(_layers(peft_model, adapter))
    if not layers:
        raise LocalError(f"lora_core: this {type(peft_model).__name__} has no LoRA layer with an adapter {adapter!r}")
    for name, layer in layers:  # all of them, before one changes
        _check(name, layer, adapter)
    for _, layer in layers:
        down, up = layer.get_submodule(f"lora_A.{adapter}"), layer.get_submodule(f"lora_B.{adapter}")
        weight, like = _frozen(layer), down.get_parameter("weight")
        u, _, v = torch.linalg.svd(weight.float(), full_matrices=False)
        rank = len(like)
        down.register_parameter("weight", nn.Parameter(v[:rank].to(like).contiguous(), requires_grad=False))
        up.register_parameter("weight", nn.Parameter(like.new_zeros(rank, rank)))
        parametrize.register_parametrization(
            up, "weight", FixedTimesCore(u[:, :rank].to(like).contiguous()), unsafe=True
        )
    return peft_model


def _layers(model: nn.Module, adapter: str) -> Iterator[tuple[str, nn.Module]]:
    """Every layer with this adapter, by name."""
    for name, module in model.named_modules():
        for kind in ("lora_B", "lora_embedding_B"):
            if adapter in getattr(module, kind, ()):
                yield name, module


def _frozen(layer: nn.Module) -> Tensor:
    """W0, (O, I)."""
    weight = layer.get_base_layer().weight  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    return weight.detach().T if getattr(layer, "fan_in_fan_out", False) else weight.detach()


def _check(name: str, layer: nn.Module, adapter: str) -> None:
    down, up = (getattr(layer, kind, {}) for kind in ("lora_A", "lora_B"))
    pair = [part[adapter] for part in (down, up) if adapter in part]
    if len(pair) != 2 or not all(isinstance(part, nn.Linear) for part in pair):
        raise LocalError(f"lora_core: {name} is an embedding or a convolution; choose linear layers as target_modules")
    if parametrize.is_parametrized(pair[1]):
        raise LocalError(f"lora_core: {name} has a core already")
    rank, shape = pair[0].out_features, (pair[1].out_features, pair[0].in_features)
    frozen = _frozen(layer)
    if tuple(frozen.shape) != shape or not frozen.is_floating_point():
        raise LocalError(f"lora_core: {name} holds no matrix of {shape}; it is {tuple(frozen.shape)}, {frozen.dtype}")
    if rank > min(shape):
        raise LocalError(
            f"lora_core: {name} is {shape[0]} x {shape[1]}, so its rank is {min(shape)} at most; got {rank}"
        )
