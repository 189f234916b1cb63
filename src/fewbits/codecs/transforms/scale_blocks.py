"""ScaleBlocks: the pieces of a vector that each have a scale of their own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fewbits import kernels
from fewbits.checks import check_whole
from fewbits.errors import LocalError, WireError
from fewbits.spec import Spec
from fewbits.wire import BitReader, BitWriter

FEW = 8  # numbers; so many are looked at sooner one by one than by NumPy


@dataclass(frozen=True)
class ScaleBlocks:
    """One scale, or `each`, for the whole vector, for each tensor in it, or for each bucket of a fixed length."""

    per: str | int  # "whole", "tensor", or a bucket's length in elements
    each: int = 1  # scales of one stretch, which lie side by side

    def offsets(self, spec: Spec) -> np.ndarray:
        """Where the stretches begin, and the end of the last.  # (m+1,) int64"""
        n = spec.numel
        if self.per == "whole":
            return np.array([0, n], np.int64)
        if self.per == "tensor":
            return np.concatenate([[0], np.cumsum(spec.segments or (n,))]).astype(np.int64)
        length = int(self.per)
        return np.minimum(np.arange(-(-n // length) + 1, dtype=np.int64) * length, n)

    @property
    def narrow(self) -> bool:
        """Buckets are many, so their scales are 16 bits, rounded up; other scales are float32."""
        return isinstance(self.per, int)

    def longest(self, spec: Spec) -> int:
        """Elements of the longest stretch."""
        return int(np.diff(self.offsets(spec)).max(initial=0))

    def bits(self, spec: Spec) -> int:
        """What the scales cost."""
        return (16 if self.narrow else 32) * self.each * (len(self.offsets(spec)) - 1)

    def round(self, scales: np.ndarray) -> np.ndarray:
        """The scales as the receiver will see them."""
        return kernels.quantise.from_16(kernels.quantise.round_up_16(scales)) if self.narrow else scales

    def write(self, scales: np.ndarray, out: BitWriter) -> None:
        """Append scales that `round` has made."""
        wire = kernels.quantise.round_up_16(scales).astype("<u2") if self.narrow else scales.astype("<f4")
        out.write_bytes(wire.view(np.uint8))

    def read(self, spec: Spec, src: BitReader) -> np.ndarray:
        """Read back; scales that are negative or not finite are refused.  # (m * each,) float32"""
        raw = src.read_bytes(self.bits(spec) // 8).tobytes()
        if self.narrow:
            scales = kernels.quantise.from_16(np.frombuffer(raw, "<u2").astype(np.uint16))
        else:
            scales = np.frombuffer(raw, "<f4").astype(np.float32)
        if not _are_scales(scales):
            raise WireError("a scale is negative or not finite")
        return scales


def _are_scales(scales: np.ndarray) -> bool:
    """Whether none is negative, not even a zero, and all are finite."""
    if len(scales) <= FEW:
        return all(math.isfinite(x) and math.copysign(1.0, x) > 0 for x in scales.tolist())
    return bool(np.all(np.isfinite(scales))) and not bool(np.any(np.signbit(scales)))


def per_option(owner: str, per: str | int) -> ScaleBlocks:
    """Check a `bucket` argument."""
    if per not in ("whole", "tensor"):
        check_whole(f"{owner}: bucket", per, 1, hint=' (of elements), or "whole" or "tensor"')
    return ScaleBlocks(per)


def float32(x: Tensor, owner: str) -> np.ndarray:
    """The vector as contiguous float32; values beyond its range are refused."""
    y = x.detach().cpu().to(torch.float32)
    if x.dtype == torch.float64 and not bool(torch.isfinite(y).all()):
        raise LocalError(f"{owner}: {float(x.abs().max()):.4g} is beyond float32, in which levels are computed")
    return np.ascontiguousarray(y.numpy())
