"""Scaled: what Sign, Quantize and DeadZone have in common."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fewbits.codecs.base import Transform
from fewbits.codecs.transforms.scale_blocks import ScaleBlocks
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.wire import BitReader, BitWriter


class Scaled(Transform):
    """Integer levels, and as side information a scale for each stretch of the vector.  # (m,) float32"""

    bucket: str | int  # one scale for the "whole" vector, for each "tensor", or for so many entries

    quantises: ClassVar[bool] = True

    @property
    def stretches(self) -> ScaleBlocks:
        return ScaleBlocks(self.bucket)

    def write(self, side: Tensor, spec: Spec, out: BitWriter) -> None:
        self.stretches.write(side.numpy(), out)

    def read(self, spec: Spec, src: BitReader, common: Key) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.stretches.read(spec, src)))
