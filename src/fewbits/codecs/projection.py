"""The projection of a vector onto one that both ends have: what LookBack and Predict share."""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

import torch
from torch import Tensor

from fewbits import kernels
from fewbits.errors import LocalError, WireError
from fewbits.rng import Key
from fewbits.wire import BitReader, BitWriter

MAX_KEY_BYTES = 1024


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


def write_scalar(value: float, out: BitWriter) -> None:
    """A float32, 32 bits."""
    out.write(int.from_bytes(struct.pack(">f", value), "big"), 32)


def read_scalar(src: BitReader) -> float:
    """A finite float32; WireError otherwise."""
    (value,) = struct.unpack(">f", src.read(32).to_bytes(4, "big"))
    if not math.isfinite(value):
        raise WireError("a coefficient is not finite")
    return value


def write_key(key: Key, out: BitWriter) -> None:
    """A key's text, after its length in 16 bits."""
    text = key.text().encode()
    if len(text) > MAX_KEY_BYTES:
        raise LocalError(f"a common key's text has {len(text)} bytes; at most {MAX_KEY_BYTES} can be stored")
    out.write(len(text), 16)
    out.write_bytes(text)


def read_key(src: BitReader) -> Key:
    """Read back what was written."""
    size = src.read(16)
    if size > MAX_KEY_BYTES:
        raise WireError(f"a stored key has {size} bytes; at most {MAX_KEY_BYTES} are allowed")
    try:
        key = Key.parse(src.read_bytes(size).tobytes().decode())
        key.digest()  # labels that cannot be encoded show here
        return key
    except (ValueError, RecursionError) as error:  # UnicodeError and LocalError are ValueErrors
        raise WireError(f"a stored key cannot be read: {error}") from None


def share(owner: str, name: str, value: object) -> None:
    """Raise LocalError unless value is a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise LocalError(f"{owner}: {name} must be a number in [0, 1]; got {value!r}")
