"""DeepSqueeze: gossip of error-compensated compressed models (Tang et al. 2019, arXiv 1907.07346)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from fewbits.codecs import Codec, ErrorFeedback, Quantize, chain, flat
from fewbits.coders import Rans
from fewbits.learn.gossip.method import GossipMethod
from fewbits.spec import TreeSpec


@dataclass(frozen=True)
class DeepSqueeze(GossipMethod):
    """x_half = x - eta grad(x); send v = C(x_half + e), e += x_half - v; x = x_half + gamma sum_j w_ij (v_j - v_i).

    Whole models are compressed, so that a round costs more than CHOCO's at equal error; no copies of neighbours are
    kept, so that any network will do.
    """

    wire_name: ClassVar[str] = "deep_squeeze"

    codec: Codec = field(default_factory=lambda: flat(ErrorFeedback(chain(Quantize(bits=8), Rans()))))
    gamma: float | str = 0.3

    def combine(self, half: Tensor, consensus: Tensor, eta: float, spec: TreeSpec) -> Tensor:
        """x_half + gamma sum_j w_ij (v_j - v_i)."""
        return half.add(consensus, alpha=self.step_size)
