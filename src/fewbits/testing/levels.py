"""What coders are tried on: ranges of levels, sizes, and levels of many shapes of distribution."""

from __future__ import annotations

import numpy as np

from fewbits.coders import Coder
from fewbits.spec import Spec
from fewbits.wire import BitReader, BitWriter

RANGES = (
    ("int8", -7, 7),
    ("int8", -1, 1),
    ("uint8", 0, 1),
    ("int8", 0, 3),
    ("int8", -2, 2),
    ("int8", -20, -3),
    ("uint8", 0, 255),
    ("int8", -128, 127),
    ("int8", 5, 5),
    ("int16", -300, 700),
    ("int16", -32768, 32767),
    ("int32", -100_000, 70_000),
    ("int64", 0, 30),
)
SIZES = (*range(11), 31, 32, 33, 1000)
MOST_LEVELS = 2**16  # a coder may refuse more, with a LocalError


def levels(spec: Spec, generator: np.random.Generator) -> list[np.ndarray]:
    """Constant, uniform, mostly zero, bell-shaped and extreme levels.  # (numel,) each"""
    assert spec.low is not None and spec.high is not None
    n, low, high = spec.numel, spec.low, spec.high
    uniform = generator.integers(low, high + 1, n)
    zero = min(max(0, low), high)
    made = [
        uniform,
        np.full(n, high),
        np.full(n, low),
        np.where(generator.random(n) < 0.05, uniform, zero),
        np.clip(np.rint(generator.normal(zero, 1.5, n)), low, high),
        np.where(np.arange(n) % 2, low, high),
        np.clip(zero + generator.geometric(0.3, n) - 1, low, high),
    ]
    return [values.astype(spec.dtype) for values in made]


def bell(n: int, seed: int = 3) -> tuple[np.ndarray, Spec]:
    """n levels in -7..7 that look normal, and their Spec."""
    normal = np.random.default_rng(seed).normal(0, 1.75, n)
    return np.clip(np.rint(normal), -7, 7).astype(np.int8), Spec((n,), "int8", -7, 7)


def written(coder: Coder, values: np.ndarray, spec: Spec) -> BitWriter:
    """What the coder writes."""
    out = BitWriter()
    coder.write(values, spec, out)
    return out


def read_all(coder: Coder, data: bytes, spec: Spec) -> np.ndarray:
    """What the coder reads from all of `data`."""
    src = BitReader(data)
    values = coder.read(spec, src)
    src.finish()
    return values
