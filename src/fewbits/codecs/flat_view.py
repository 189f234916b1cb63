"""flat_view: many tensors that lie end to end in memory, as the one vector that they are; and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from fewbits.codecs import large


def flat_view(tensors: Iterable[Tensor]) -> Tensor | None:
    """A view over all of them, in their order, or None when they do not lie end to end on the CPU.  # (numel,)

    A flat model's parameters do; one pass over the whole costs less than one per tensor.
    """
    found = list(tensors)
    if not found:
        return None
    first, numel = found[0], 0
    start, size, dtype = first.data_ptr(), first.element_size(), first.dtype
    for x in found:
        if x.data_ptr() != start + numel * size or x.dtype != dtype or not x.is_cpu or not x.is_contiguous():
            return None
        numel += x.numel()
    offset = first.storage_offset()
    if (offset + numel) * size > first.untyped_storage().nbytes():
        return None  # neighbours by chance: tensors of different allocations
    return first.detach().as_strided((numel,), (1,), offset)


def copied(x: Any) -> Any:
    """A tensor or a dict of them in memory of its own, end to end again if it was."""
    if isinstance(x, Tensor):
        return large.clone(x)
    whole = flat_view(x.values())
    if whole is None:
        return {name: large.clone(value) for name, value in x.items()}
    return pieces(large.clone(whole), x)


def pieces(vector: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Views of a vector by the names and shapes of `like`.  # (numel,)"""
    parts = torch.split(vector, [x.numel() for x in like.values()])
    return {name: part.view(x.shape) for (name, x), part in zip(like.items(), parts, strict=True)}
