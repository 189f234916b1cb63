"""The projection of a vector onto one that both ends have: what LookBack and Predict share."""

from __future__ import annotations

import math
import struct

import torch
from torch import Tensor

from fewbits.codecs.wrapper import dot
from fewbits.errors import LocalError, WireError
from fewbits.rng import Key
from fewbits.wire import BitReader, BitWriter


def coefficient(x: Tensor, base: Tensor | None) -> float | None:
    """rho = <x, base>/|base|^2 as a float32, or None when there is no base, or it is zero or too small to divide by."""
    if base is None:
        return None
    norm2 = dot(base, base)
    if norm2 == 0.0:
        return None
    rho = float(torch.tensor(dot(x, base) / norm2, dtype=torch.float64).to(torch.float32))
    reach = abs(rho) * float(base.abs().max()) if base.numel() else 0.0
    return rho if math.isfinite(rho) and reach <= torch.finfo(base.dtype).max else None


def phase_error(x: Tensor, base: Tensor) -> float:
    """sin^2 of the angle between them: 1 - (<x, base>/(|x| |base|))^2, clamped to [0, 1]; 0 when x is zero."""
    norms2 = dot(x, x) * dot(base, base)
    if norms2 == 0.0:
        return 0.0 if dot(x, x) == 0.0 else 1.0
    return min(1.0, max(0.0, 1.0 - dot(x, base) ** 2 / norms2))


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
    out.write(len(text), 16)
    out.write_bytes(text)


def read_key(src: BitReader) -> Key:
    """Read back what was written."""
    try:
        return Key.parse(src.read_bytes(src.read(16)).tobytes().decode())
    except ValueError as error:  # UnicodeDecodeError and LocalError are both
        raise WireError(f"a stored key cannot be read: {error}") from None


def share(owner: str, name: str, value: object) -> None:
    """Raise LocalError unless value is a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise LocalError(f"{owner}: {name} must be a number in [0, 1]; got {value!r}")
