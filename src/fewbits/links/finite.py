"""Checks on values at the ends of a link."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fewbits.codecs import Partial, finiteness
from fewbits.codecs.flat_view import flat_view
from fewbits.errors import LocalError, WireError
from fewbits.spec import Spec, TreeSpec

FAR = 1e4  # the largest float16 is 65,504
ROUNDED = 1 + 2.0**-20  # a sum of squares in float32 is at least the largest of them, which was rounded


def named(x: Any) -> list[tuple[str, Tensor]]:
    """(name, tensor) for each tensor of a value; a lone one is called "tensor"."""
    return list(x.items()) if isinstance(x, Mapping) else [("tensor", x)]


def all_finite(x: Any) -> bool:
    """Whether every number is finite."""
    tensors = [value for _, value in named(x)]
    joined = flat_view(tensors)  # None: the tensors do not lie end to end
    return all(map(finiteness.all_finite, tensors)) if joined is None else finiteness.all_finite(joined)


def reach(partial: Partial) -> float:
    """A bound on the magnitudes in scale * values; infinite or NaN when some of them are not finite.

    It is their 2-norm while that is far from any limit, since who watches norms needs it anyhow; else the largest.
    """
    x = partial.values
    if x.numel() == 0:
        return 0.0
    if x.dtype == torch.float32 and partial.norm < FAR:
        return partial.norm * ROUNDED
    low, high = torch.aminmax(x)  # NaN when x has one
    largest = max(-float(low), float(high))
    product = abs(partial.scale) * largest
    return product if product <= torch.finfo(x.dtype).max else math.inf


def too_large(found: float, most: float) -> WireError:
    """The error about an update with an entry of magnitude `found`, where a sum takes `most`."""
    return WireError(
        f"values up to {found:.3g} came, and with this weight those beyond {most:.3g} are left out: sums "
        "of them could leave float32's range"
    )


def check_finite(x: Any, owner: str) -> None:
    """Raise LocalError naming the first tensor with NaN or infinite entries, and how many of each."""
    if all_finite(x):
        return
    for name, value in named(x):
        nans, infs = int(torch.isnan(value).sum()), int(torch.isinf(value).sum())
        if nans or infs:
            raise LocalError(
                f"{owner}: {name} has {nans} NaN and {infs} infinite values of {value.numel()}; send finite updates"
            )


def check_tree(x: Any, spec: Spec | TreeSpec, owner: str) -> None:
    """Raise LocalError unless x has the names, shapes and dtypes of spec."""
    if isinstance(spec, TreeSpec):
        if not isinstance(x, Mapping):
            raise LocalError(f"{owner}: expected a dict of {len(spec)} tensors; got {type(x).__name__}")
        expected = [name for name, _ in spec]
        if list(x) != expected:
            raise LocalError(f"{owner}: expected the tensors {expected} in this order; got {list(x)}")
        for name, leaf in spec:
            _check(name, x[name], leaf, owner)
    else:
        _check("tensor", x, spec, owner)


def _check(name: str, x: Any, spec: Spec, owner: str) -> None:
    if not isinstance(x, Tensor):
        raise LocalError(f"{owner}: {name} must be a tensor; got {type(x).__name__}")
    if tuple(x.shape) != spec.shape or x.dtype != spec.torch_dtype:
        raise LocalError(
            f"{owner}: {name} must be {spec.dtype} of shape {spec.shape}; got {x.dtype} of shape {tuple(x.shape)}"
        )
