"""The projection of a vector onto one that both ends have: what LookBack and Predict share."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fewbits import kernels


class Overlap(NamedTuple):
    """The inner products of a vector x and a base, in float64."""

    xx: float
    xy: float
    yy: float

    @staticmethod
    def of(x: Tensor, base: Tensor) -> Overlap:
        """One pass over both, for float32 on a CPU.  # (n,) each"""
        if x.dtype == torch.float32 and x.device.type == "cpu":
            return Overlap(*kernels.dots.products(x.detach().numpy(), base.detach().numpy()))
        u, v = x.to(torch.float64), base.to(torch.float64)
        return Overlap(float(u @ u), float(u @ v), float(v @ v))

    @property
    def rho(self) -> float | None:
        """<x, base>/|base|^2 as a float32; None when the base is zero, or rho times it might not be finite."""
        if self.yy == 0.0:
            return None
        rho = float(torch.tensor(self.xy / self.yy, dtype=torch.float64).to(torch.float32))
        reach = abs(rho) * math.sqrt(self.yy)  # at least rho times the largest entry
        return rho if math.isfinite(rho) and reach <= torch.finfo(torch.float32).max else None

    @property
    def sin2(self) -> float:
        """Phase error: 1 - (<x, base>/(|x| |base|))^2, clamped to [0, 1]; 0 when x is zero, 1 when only the base is."""
        if self.xx == 0.0:
            return 0.0
        return 1.0 if self.yy == 0.0 else min(1.0, max(0.0, 1.0 - self.xy / self.xx * (self.xy / self.yy)))

    def missed(self, rho: float) -> float:
        """|x - rho*base|^2."""
        return max(0.0, self.xx - 2 * rho * self.xy + rho * rho * self.yy)
