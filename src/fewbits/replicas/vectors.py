"""Named tensors as one vector, and a vector as named tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fewbits.codecs.flat_view import flat_view
from fewbits.spec import TreeSpec


def end_to_end(values: Mapping[str, Tensor]) -> Tensor:
    """The tensors as one vector, without a copy where they lie as one.  # (numel,)"""
    laid = flat_view(values.values())
    return torch.cat([x.reshape(-1) for x in values.values()] or [torch.zeros(0)]) if laid is None else laid


def named_views(vector: Tensor, spec: TreeSpec) -> dict[str, Tensor]:
    """Views of a vector by the names and shapes of a tree.

    >>> from fewbits.spec import Spec
    >>> named_views(torch.arange(3), TreeSpec((("a", Spec((1,))), ("b", Spec((2,))))))
    {'a': tensor([0]), 'b': tensor([1, 2])}
    """
    parts = torch.split(vector, [leaf.numel for _, leaf in spec]) if spec.numel else [vector] * len(spec.entries)
    return {name: part.view(leaf.shape) for (name, leaf), part in zip(spec, parts, strict=True)}
