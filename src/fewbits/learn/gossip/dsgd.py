"""DSGD: decentralised stochastic gradient descent (Lian et al. 2017, D-PSGD; adapt-then-combine)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from fewbits.codecs import Codec, Raw, flat
from fewbits.learn.gossip.method import GossipMethod
from fewbits.spec import TreeSpec


@dataclass(frozen=True)
class DSGD(GossipMethod):
    """x_half = x - eta grad(x); send x_half; x = sum_j w_ij x_half_j.

    Frames are whole models, by default in float32. Another codec here compresses the models themselves, which does not
    converge beyond the codec's error; use `Choco`. gamma < 1 goes only part of the way to the mean. Lian et al. take
    the gradient at x and step from the mean of the x_j; here, as in CHOCO's paper, the step comes first.
    """

    wire_name: ClassVar[str] = "dsgd"

    codec: Codec = field(default_factory=lambda: flat(Raw()))
    gamma: float | str = 1.0

    def combine(self, half: Tensor, consensus: Tensor, eta: float, spec: TreeSpec) -> Tensor:
        """x_half + gamma sum_j w_ij (x_half_j - x_half_i)."""
        return half.add(consensus, alpha=self.step_size)
