"""Recurrent layers keep their weights in a list of their own, which would be stale once they are factored."""

from __future__ import annotations

from torch import Tensor, nn

from fewbits.factor import compose_once


def read_weights_afresh(module: nn.RNNBase) -> None:
    """Make the layer's flat list of weights a view of its attributes, composed once in each forward.

    `nn.LSTM` and its kin hand `_flat_weights` to the kernel, look at it before, and since torch 2.1 compare it with the
    attributes in every forward, which would compose each weight several times. The property goes onto the class that
    `parametrize` made for this module and its copies; plain layers are not touched.
    """
    kind = type(module)
    module.__dict__.pop("_flat_weights", None)
    kind._flat_weights = property(_read, _ignore)  # pyright: ignore[reportAttributeAccessIssue]
    kind._update_flat_weights = _nothing
    compose_once.attach(module)


def _read(self: nn.RNNBase) -> list[Tensor]:
    return [getattr(self, name) for name in self._flat_weights_names]


def _ignore(self: nn.RNNBase, value: list[Tensor]) -> None:
    """`_apply` (to, cuda, half) lists the weights anew: there is nothing to list."""


def _nothing(self: nn.RNNBase) -> None:
    """Nothing can be stale."""
