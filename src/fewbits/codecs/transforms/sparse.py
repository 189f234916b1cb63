"""Supports: what TopK, Threshold and RandK have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fewbits.codecs import large
from fewbits.codecs.base import Keys, Transform
from fewbits.coders import read_support, write_support
from fewbits.coders.elias import read_delta, write_delta
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.wire import BitReader, BitWriter


class Sparse(Transform):
    """Keep the entries on a support, exactly; the rest become zero.

    An orthogonal projection. The support is an ascending list of positions  # (k,) int64; the carrier is the
    values there  # (k,).
    """

    sparse: ClassVar[bool] = True

    @property
    def projection(self) -> bool:
        return True

    @abstractmethod
    def select(self, x: Tensor, spec: Spec, keys: Keys) -> np.ndarray:
        """The support for x.  # (k,) int64, ascending"""

    @abstractmethod
    def most(self, spec: Spec) -> int:
        """The largest support there can be, in entries."""

    def split(self, x: Tensor, spec: Spec, keys: Keys) -> tuple[Tensor, Tensor]:
        support = torch.from_numpy(self.select(x, spec, keys))
        return support, x.index_select(0, support)  # quicker than x[support]

    def join(self, side: Tensor, carrier: Tensor, spec: Spec) -> Tensor:
        x = large.zeros(spec.numel, spec.torch_dtype)
        x[side] = carrier.to(x.dtype)
        return x

    def carrier(self, side: Any, spec: Spec) -> Spec:
        """k values; the tensors' boundaries are lost."""
        k = self.most(spec) if side is None else side.shape[0]
        return spec.derive(shape=(k,), segments=())

    def write(self, side: Tensor, spec: Spec, out: BitWriter) -> None:
        """How many are missing to the largest support (one bit when none), then the support."""
        write_delta(self.most(spec) - len(side) + 1, out)
        write_support(side.numpy(), spec.numel, out)

    def read(self, spec: Spec, src: BitReader, common: Key) -> Tensor:
        """The count is at most `most`, so memory is bounded before the support is read."""
        most = self.most(spec)
        k = most + 1 - read_delta(src, most + 1)
        return torch.from_numpy(read_support(k, spec.numel, src))


def magnitudes(x: Tensor) -> np.ndarray:
    """The vector in float32 for selection; float64 values beyond its range tie at the largest."""
    if x.dtype == torch.float64:
        largest = torch.finfo(torch.float32).max
        x = x.clamp(-largest, largest)
    return np.ascontiguousarray(x.detach().cpu().to(torch.float32).numpy())
