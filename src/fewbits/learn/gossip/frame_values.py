"""FrameValues: what a node's frame holds of its model, and what a neighbour reads from it."""

from __future__ import annotations

import torch
from torch import Tensor

from fewbits.learn import shared_values
from fewbits.learn.flat_model import FlatModel


class FrameValues:
    """With `residual`, x_half - public. Without, x_half, and of its float buffers the difference to those of the start.

    All nodes start from the same model, so a buffer that stays as it was is not sent.
    """

    def __init__(self, model: FlatModel, residual: bool) -> None:
        self._model, self.residual, self._size = model, residual, len(model.shared_params)
        self.start = model.shared[self._size :].cpu().clone()  # (T,) float buffers of the start

    def sent(self, half: Tensor, public: Tensor) -> dict[str, Tensor]:
        """The tensors of a frame.  # (S,), (S,)"""
        message = half - public if self.residual else self._with_buffers(half, -self.start)
        return shared_values.cut(message, self._model)

    def read(self, value: dict[str, Tensor]) -> Tensor:
        """What to add to the sender's public vector; without `residual`, that vector.  # (S,)"""
        vector = shared_values.vector(value)
        return vector if self.residual else self._with_buffers(vector, self.start)

    def _with_buffers(self, vector: Tensor, added: Tensor) -> Tensor:
        if not len(added):
            return vector
        return torch.cat([vector[: self._size], vector[self._size :] + added])
