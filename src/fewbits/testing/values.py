"""Values to send: update streams, and the inputs on which codecs break."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec

SHAPES = {"weight": (5, 7), "bias": (5,), "gain": ()}  # 41 numbers, a scalar among them
TREE = TreeSpec(tuple((name, Spec(shape)) for name, shape in SHAPES.items()))

HARD_INPUTS = (
    "zeros",
    "negative zeros",
    "constant",
    "ties",
    "mostly zero",
    "denormal",
    "smallest",
    "large",
    "all scales",
)
HUGE = ("large", "all scales")  # the only ones that a codec may refuse, with a LocalError


def vector(key: Key, n: int) -> np.ndarray:
    """n numbers that look normal, the same on every machine: sums of four uniforms.  # (n,) float32"""
    return key.uniform(4 * n).reshape(4, n).sum(0, dtype=np.float32) * np.float32(1.7) - np.float32(3.4)


def tree(x: np.ndarray, dtype: torch.dtype | None = None, spec: Spec | TreeSpec = TREE) -> Any:
    """The numbers as a value of `spec`, in `dtype` instead of the dtypes of `spec` when given."""
    if isinstance(spec, Spec):
        return torch.from_numpy(x.copy()).reshape(spec.shape).to(dtype or spec.torch_dtype)
    pieces = np.split(x, np.cumsum([leaf.numel for _, leaf in spec])[:-1])
    return {name: tree(piece, dtype, leaf) for (name, leaf), piece in zip(spec, pieces, strict=False)}


def stream(
    rounds: int, seed: int = 7, dtype: torch.dtype | None = None, spec: Spec | TreeSpec = TREE
) -> Iterator[dict[str, Tensor]]:
    """Updates that point roughly the same way, so that look-back recycles some of them and not others."""
    base = vector(Key(seed).fold("base"), spec.numel)
    for t in range(rounds):
        step = np.float32(t % 4) * np.float32(0.6) * vector(Key(seed).fold(t), spec.numel)
        yield tree(base + step, dtype, spec)


def hard_vectors(n: int) -> dict[str, np.ndarray]:
    """The hard inputs as vectors of n numbers, by name.  # (n,) each"""
    signs = np.resize([1.0, -1.0], n)
    spike = np.zeros(n)
    spike[17 * n // 41 : 17 * n // 41 + 1] = -3
    return {
        "zeros": np.zeros(n),
        "negative zeros": np.full(n, -0.0),
        "constant": np.full(n, 0.1),
        "ties": signs,
        "mostly zero": spike,
        "denormal": vector(Key(5), n) * 1e-41,
        "smallest": np.full(n, 1.4e-45),
        "large": np.sign(vector(Key(6), n)) * 1e38,
        "all scales": np.logspace(-44, 38, n) * signs,
    }


def hard_inputs(spec: Spec | TreeSpec = TREE) -> dict[str, Any]:
    """Inputs on which codecs break, by name: zeros, ties, denormals, the largest and the smallest numbers.

    Numbers beyond the range of a dtype are cut to it. Codecs must send them all, except that a LocalError may refuse
    "large" and "all scales".

    Args:
        spec: what the inputs look like; 41 numbers in three tensors by default.

    Example:
        >>> from fewbits import Spec
        >>> hard_inputs(Spec((3,)))["ties"]
        tensor([ 1., -1.,  1.])
    """
    return {name: bounded(tree(x.astype(np.float32), None, spec)) for name, x in hard_vectors(spec.numel).items()}


def bounded(x: Any) -> Any:
    """A value with infinite numbers cut to the largest of their dtype."""
    if isinstance(x, Tensor):
        return x.nan_to_num()
    return {name: part.nan_to_num() for name, part in x.items()}
