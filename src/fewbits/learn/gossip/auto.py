"""gamma="auto": the consensus step from the codec's measured error and the graph's spectrum.

Near agreement and without gradients, CHOCO is linear. Split all nodes' vectors into eigenvectors of I - W; for the one
with eigenvalue m, x is the node's vector and d = x - xhat what its copies lack. Measure C on a random vector: its gain
c = <C(v), v> / |v|^2 and its noise b = |C(v) - c v|^2 / |v|^2. With xhat' = x - (1-c) d + n and E n^2 = b E d^2:

    x' = (1 - g m) x + g m (1-c) d - g m n,    d' = x' - xhat' = -g m x + (1 + g m) (1-c) d - (1 + g m) n.

The second moments E x^2, E xd, E d^2 follow a 3 x 3 matrix; its largest eigenvalue says how fast disagreement falls.
gamma is the g that makes the worst of the modes fall fastest. The derivation is ours; CHOCO's own bound is far smaller.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch

from fewbits.codecs import Keys
from fewbits.errors import LocalError
from fewbits.learn import exchange
from fewbits.learn.gossip.method import AUTO, GossipMethod
from fewbits.learn.topology import Network
from fewbits.rng import Key
from fewbits.spec import TreeSpec

GRID = tuple(np.round(np.geomspace(0.01, 1.0, 81), 4).tolist())
M = TypeVar("M", bound=GossipMethod)


def tuned(method: M, spec: TreeSpec, network: Network, key: Key) -> M:
    """The method with a number for gamma: its own, or the rule's; equal arguments give equal numbers everywhere."""
    if method.gamma != AUTO:
        return method
    gain, noise = _measured(method, spec, key)
    eigenvalues = network.expected().eigenvalues
    modes = (1 - float(eigenvalues[-2]), 1 - float(eigenvalues[0])) if network.n > 1 else (1.0, 1.0)
    return replace(method, gamma=best_gamma(gain, noise, modes))


def best_gamma(gain: float, noise: float, modes: tuple[float, float]) -> float:
    """The g of a grid in (0, 1] under which the slower of two modes, least and largest eigenvalue of I - W, is fastest.

    LocalError when nothing on the grid converges: the codec's error is then larger than what it is given.
    """
    rates = [max(rate(g, gain, noise, m) for m in modes) for g in GRID]
    best = int(np.argmin(np.round(rates, 9)))
    if rates[best] >= 1:
        raise LocalError(
            f'gamma="auto": no step converges: the codec keeps {gain:.3g} of a vector and adds {noise:.3g} of its '
            'squared length as noise; use more bits, or Quantize(..., mode="contractive")'
        )
    return GRID[best]


def rate(g: float, gain: float, noise: float, m: float) -> float:
    """The factor by which second moments of one mode change per round."""
    a, b = 1 - g * m, g * m * (1 - gain)
    p, q = -g * m, (1 + g * m) * (1 - gain)
    moments = np.array(
        [
            [a * a, 2 * a * b, b * b + noise * (g * m) ** 2],
            [a * p, a * q + b * p, b * q + noise * g * m * (1 + g * m)],
            [p * p, 2 * p * q, q * q + noise * (1 + g * m) ** 2],
        ]
    )
    return float(np.abs(np.linalg.eigvals(moments)).max())


@lru_cache(maxsize=64)  # all nodes of a process ask for the same
def _measured(method: GossipMethod, spec: TreeSpec, key: Key) -> tuple[float, float]:
    """(gain, noise) of one encoding of a heavy-tailed random vector: a product of two normal ones, as residuals are."""
    codec = exchange.with_buffers(method.lift, spec)
    v = torch.from_numpy(key.fold("a").normal(spec.numel) * key.fold("b").normal(spec.numel))
    pieces = torch.split(v, [leaf.numel for _, leaf in spec])
    tree = {name: x.reshape(leaf.shape) for (name, leaf), x in zip(spec, pieces, strict=True)}
    state, keys = codec.init(spec), Keys(key.fold("private"), key.fold("common"))
    message, _ = codec.encode(tree, spec, state, codec.memory(spec), keys)
    found = exchange.vector(codec.decode(message, spec, state)[0]).double()
    v = v.double()
    size = max(float(v @ v), 1e-30)
    gain = float(found @ v) / size
    return gain, float((found - gain * v).square().sum()) / size
