"""Recurrent layers list their weights in `_flat_weights`; after factoring the list must be read anew."""

from __future__ import annotations

from torch import Tensor, nn

from fewbits.factor import compose_once


def read_weights_afresh(module: nn.RNNBase) -> None:
    """Make the layer's list of weights a property that reads its attributes, composed once per forward.

    `nn.LSTM` and its relatives pass `_flat_weights` to the kernel. Since torch 2.1 they also compare it with the
    attributes in every forward, which would compose each weight several times. The property is set on the class that
    `parametrize` made for this module and its copies; plain layers do not change.
    """
    kind = type(module)
    module.__dict__.pop("_flat_weights", None)
    kind._flat_weights = property(_read, _ignore)  # pyright: ignore[reportAttributeAccessIssue]
    kind._update_flat_weights = _nothing
    compose_once.attach(module)


def _read(self: nn.RNNBase) -> list[Tensor]:
    return [getattr(self, name) for name in self._flat_weights_names]


def _ignore(self: nn.RNNBase, value: list[Tensor]) -> None:
    """Ignore the list that `_apply` (to, cuda, half) writes: the property reads the attributes."""


def _nothing(self: nn.RNNBase) -> None:
    """Do nothing: the property is never stale."""
