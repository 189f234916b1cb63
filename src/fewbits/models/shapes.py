"""A model from shapes alone, with layers that can be factored; it cannot be trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from fewbits.errors import LocalError

MOST = 2_000_000_000  # parameters, all together
CONVOLUTIONS = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}


def of_shapes(shapes: Mapping[str, Sequence[int]]) -> nn.Module:
    """A module with zeros of these shapes and names, as in a state_dict; it has no forward.

    `a.b.weight` with two dimensions becomes a linear layer, with three to five a convolution; `a.b.bias` is its bias.
    Everything else is a parameter that no method factors. LocalError when a shape is not usable.

    >>> [tuple(p.shape) for p in of_shapes({"fc.weight": (3, 5), "fc.bias": (3,), "scale": (2, 2)}).parameters()]
    [(2, 2), (3, 5), (3,)]
    """
    _check(shapes)
    owners: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        prefix, _, leaf = name.rpartition(".")
        owners.setdefault(prefix, {})[leaf] = tuple(shape)
    root = nn.Module()
    for prefix, leaves in owners.items():
        try:
            _place(root, prefix, _layer(leaves) if prefix else None, leaves)
        except KeyError as error:
            raise LocalError(
                f"shapes: torch refuses the names below {prefix!r}: {error.args[0]}; call them otherwise"
            ) from None
    return root


def _place(root: nn.Module, prefix: str, layer: nn.Module | None, leaves: Mapping[str, tuple[int, ...]]) -> None:
    """Put a layer, or plain parameters, at a path; missing modules are made."""
    module, path = root, prefix.split(".") if prefix else []
    for i, part in enumerate(path):
        last = layer is not None and i == len(path) - 1 and part not in dict(module.named_children())
        if part not in dict(module.named_children()):
            module.add_module(part, layer if last else nn.Module())
        module = module.get_submodule(part)
    if module is not layer:
        for name, shape in leaves.items():
            module.register_parameter(name, nn.Parameter(torch.zeros(shape)))


def _layer(leaves: Mapping[str, tuple[int, ...]]) -> nn.Module | None:
    """The layer with these parameters; None: it is of no known kind."""
    weight, bias = leaves.get("weight", ()), leaves.get("bias")
    if len(weight) < 2 or len(weight) > 5 or set(leaves) - {"weight", "bias"} or bias not in (None, weight[:1]):
        return None
    rows, columns, *kernel = weight
    with torch.device("meta"):  # no draw of initial weights
        if kernel:
            layer = CONVOLUTIONS[len(weight)](columns, rows, tuple(kernel), bias=bias is not None)
        else:
            layer = nn.Linear(columns, rows, bias=bias is not None)
    for name, p in list(layer.named_parameters()):
        setattr(layer, name, nn.Parameter(torch.zeros(p.shape)))
    return layer


def _check(shapes: Mapping[str, Sequence[int]]) -> None:
    for name, shape in shapes.items():
        fine = isinstance(shape, Sequence) and not isinstance(shape, str)
        if not fine or not all(type(n) is int and n > 0 for n in shape) or not all(name.split(".")):
            raise LocalError(
                f'shapes: expected names with lists of sizes, such as "fc.weight": [10, 64]; got {name!r}: {shape!r}'
            )
    total = sum(math.prod(shape) for shape in shapes.values())
    if not 0 < total <= MOST:
        raise LocalError(f"shapes: expected 1 to {MOST:,} parameters; got {total:,}")
