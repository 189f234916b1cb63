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
    """Decentralised SGD: every node sends its whole model and averages it with its neighbours' models.

    x_half = x - eta grad(x); send x_half; x = x_half + gamma sum_j w_ij (x_half_j - x_half).

    Args:
        codec: codec of the whole model; the default sends float32.
        gamma: consensus step in (0, 1]; 1 takes the full weighted mean.
        momentum: momentum of the local steps, in [0, 1), kept from round to round.

    Raises:
        LocalError: an argument is outside its range, or the codec has a state.

    >>> DSGD().residual, DSGD().gamma
    (False, 1.0)

    Source: Lian et al. 2017 (arXiv 1705.09056). They take the gradient at x and step from the mean of the x_j; we step
    first, as the CHOCO paper does. A lossy codec does not converge beyond its own error here; use `Choco` instead.
    """

    wire_name: ClassVar[str] = "dsgd"

    codec: Codec = field(default_factory=lambda: flat(Raw()))
    gamma: float | str = 1.0

    def combine(self, half: Tensor, consensus: Tensor, eta: float, spec: TreeSpec) -> Tensor:
        return half.add(consensus, alpha=self.step_size)
