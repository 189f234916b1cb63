"""gamma="auto": the consensus step from the codec's measured error and the graph's spectrum.

The model: a constant local step u moves every node's model in every round. All nodes' vectors are split into
eigenvectors of I - W, with eigenvalue m. x is the model, e its public vector, and r the encoded vector. The codec gives
C(r) = c r + n with E n^2 = b E r^2. The noise n is independent between nodes: each mode gets b times the mean of r^2:

    half:   r = x + u - e,          e' = e + c r + n,   x' = x + u - g m e'
    mixed:  x' = x + u - g m e,     r = x' - e,         e' = e + c r + n

Encoding random vectors measures the gain c and the noise b. The disagreement is the sum of E x^2 over all modes but the
mean. gamma is the largest g of a grid whose disagreement is at most 5 % above the smallest. The derivation is ours. The
step that CHOCO's theorem allows (Koloskova et al. 2019, Theorem 2) is many times smaller.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from fewbits.codecs import Keys
from fewbits.errors import LocalError
from fewbits.learn import shared_values
from fewbits.learn.gossip.method import AUTO, GossipMethod
from fewbits.rng import Key
from fewbits.spec import TreeSpec
from fewbits.topology import Network

GRID = tuple(np.round(np.geomspace(0.01, 1.0, 61), 4).tolist())
TOLERANCE = 1.05  # the curve is flat near its minimum; there, the largest step agrees soonest
M = TypeVar("M", bound=GossipMethod)


def tuned(method: M, spec: TreeSpec, network: Network, key: Key) -> M:
    """The method with a number for gamma; equal arguments give equal numbers on every machine."""
    if method.gamma != AUTO:
        return method
    gain, noise = measured(method, spec, key)
    modes = Counter(np.round(1 - network.expected().eigenvalues, 2).tolist())  # at most 200 distinct values
    return replace(method, gamma=best_gamma(gain, noise, modes, method.mixes_first))


def best_gamma(gain: float, noise: float, modes: Mapping[float, int], mixes_first: bool = False) -> float:
    """The step g of a grid in (0, 1] with the least disagreement.

    `modes` counts the eigenvalues of I - W. Raises LocalError when no step converges because the codec adds too much
    noise.
    """
    values = [disagreement(g, gain, noise, modes, mixes_first) for g in GRID]
    least = min(values)
    if least == math.inf:
        raise LocalError(
            f'gamma="auto": no step converges because the codec keeps {gain:.3g} of a vector and adds {noise:.3g} of '
            'its squared length as noise; use more bits, norm="linf", or Quantize(..., mode="contractive")'
        )
    return max(g for g, value in zip(GRID, values, strict=True) if value <= TOLERANCE * least)


def disagreement(g: float, gain: float, noise: float, modes: Mapping[float, int], mixes_first: bool = False) -> float:
    """The limit of the sum of E x^2 over all modes but the mean, in units of u^2; infinite when it diverges."""
    means, spreads, noises, nodes = 0.0, 0.0, 0.0, sum(modes.values())
    fixed = 0.0
    for m, count in modes.items():
        if m <= 0:  # the mean of all nodes: r' = (1 - c) r - n + u
            rest = 1 - (1 - gain) ** 2
            if rest <= 0:
                return math.inf
            means, noises = means + count / gain**2, noises + count * noise / rest
            continue
        a, push, shake, read = _mode(g * m, gain, mixes_first)
        if np.abs(np.linalg.eigvals(a)).max() >= 1:
            return math.inf
        limit = np.linalg.solve(np.eye(2) - a, push)
        covariance = np.linalg.solve(np.eye(4) - np.kron(a, a), noise * np.outer(shake, shake).reshape(4)).reshape(2, 2)
        means += count * float(read @ limit + 1) ** 2
        noises += count * float(read @ covariance @ read)
        fixed += count * float(limit[0]) ** 2
        spreads += count * float(covariance[0, 0])
    if noises >= nodes:  # the noise grows from round to round
        return math.inf
    return fixed + spreads * means / (nodes - noises)


def _mode(gm: float, c: float, mixes_first: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(x, e)' = A (x, e) + push u + shake n, and r = read (x, e) + u."""
    if mixes_first:
        a = np.array([[1, -gm], [c, 1 - c - c * gm]])
        return a, np.array([1, c]), np.array([0.0, 1]), np.array([1, -1 - gm])
    a = np.array([[1 - gm * c, -gm * (1 - c)], [c, 1 - c]])
    return a, np.array([1 - gm * c, c]), np.array([-gm, 1]), np.array([1.0, -1])


@lru_cache(maxsize=64)  # all nodes of a process ask for the same
def measured(method: GossipMethod, spec: TreeSpec, key: Key) -> tuple[float, float]:
    """(gain, noise) of the method's codec on a normal or a Laplace vector: the pair with the larger error."""
    a, b, c, d = (torch.from_numpy(key.fold(name).normal(spec.numel)) for name in "abcd")
    found = [_encoded(method, spec, key, v) for v in (a, a * b + c * d)]  # the second is Laplace's distribution
    return max(found, key=lambda pair: (1 - pair[0]) ** 2 + pair[1])


def _encoded(method: GossipMethod, spec: TreeSpec, key: Key, v: Tensor) -> tuple[float, float]:
    """c = <C(v), v> / |v|^2 and b = |C(v) - c v|^2 / |v|^2 of one encoding."""
    codec = shared_values.with_buffers(method.lift, spec)
    pieces = torch.split(v, [leaf.numel for _, leaf in spec])
    tree = {name: x.reshape(leaf.shape) for (name, leaf), x in zip(spec, pieces, strict=True)}
    state, keys = codec.init(spec), Keys(key.fold("private"), key.fold("common"))
    message, _ = codec.encode(tree, spec, state, codec.memory(spec), keys)
    found, v = shared_values.vector(codec.decode(message, spec, state)[0]).double(), v.double()
    size = max(float(v @ v), 1e-30)
    gain = float(found @ v) / size
    return gain, float((found - gain * v).square().sum()) / size
