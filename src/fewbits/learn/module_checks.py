"""Refuse at once, by name, what of a module cannot be laid out flat and sent."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fewbits.errors import LocalError


def check_module(module: nn.Module) -> None:
    """LocalError names a tensor without a shape, or a parameter of a type that cannot travel, and the way out."""
    for name, x in [*module.named_parameters(), *module.named_buffers()]:
        if is_lazy(x):
            raise LocalError(
                f"{name} belongs to a lazy layer and has no shape yet; run one batch through the model first"
            )
        if x.is_meta:
            raise LocalError(f"{name} is on the device meta and has no values; make the model on cpu first")
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            _check_type(name, parameter, "or freeze it by requires_grad_(False)")


def check_tensors(parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> torch.device:
    """The device of all; LocalError names one that is not float32 or elsewhere, or says that nothing is trainable."""
    if not any(p.numel() for p in parameters.values()):
        raise LocalError(
            "FlatModel: the module has no trainable parameter; set requires_grad on what shall train. A PEFT adapter "
            "trains unless its config says inference_mode=True"
        )
    first = next(iter(parameters.values())).device
    for name, buffer in buffers.items():
        _check_type(name, buffer, "or register it with persistent=False, so that every client uses its copy")
    for name, tensor in {**parameters, **buffers}.items():
        if tensor.device != first:
            raise LocalError(f"FlatModel: all tensors must be on one device; {name} is on {tensor.device}, not {first}")
    return first


def _check_type(name: str, tensor: Tensor, other: str) -> None:
    if tensor.dtype != torch.float32:
        cast = "send torch.view_as_real of it" if tensor.is_complex() else "cast the model by float()"
        raise LocalError(
            f"FlatModel: parameters and buffers must be float32; {name} is {tensor.dtype}; {cast}, {other}"
        )
    if tensor.layout != torch.strided:
        raise LocalError(f"FlatModel: {name} is {tensor.layout}; call to_dense() on it, {other}")


def check_like(what: str, found: object, like: Tensor, free: int = 0) -> None:
    """LocalError unless `found` is a tensor of the shape and dtype of `like`; its first `free` dimensions may differ.

    >>> check_like("Node.load: round", "3", torch.tensor([0]))
    Traceback (most recent call last):
    fewbits.errors.LocalError: Node.load: round must be a (1,) int64 tensor; got str
    """
    fits = isinstance(found, Tensor) and found.dtype == like.dtype and found.layout == like.layout
    if not fits or found.dim() != like.dim() or found.shape[free:] != like.shape[free:]:  # pyright: ignore
        shape = ", ".join(["any"] * free + [str(size) for size in like.shape[free:]])
        kind = f"({shape}{',' if like.dim() == 1 else ''}) {str(like.dtype).removeprefix('torch.')}"
        got = f"{tuple(found.shape)} {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        raise LocalError(f"{what} must be a {kind} tensor; got {got}")


def described(tensor: Tensor | None) -> str:
    """What became of a buffer, in words."""
    return "is gone" if tensor is None else f"has shape {tuple(tensor.shape)} of {tensor.dtype}"
