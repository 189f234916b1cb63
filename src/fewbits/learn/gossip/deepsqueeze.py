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
    """DeepSqueeze: every node sends its whole model, compressed with error feedback.

    x_half = x - eta grad(x); send v = C(x_half + e); e += x_half - v; x = x_half + gamma sum_j w_ij (v_j - v_i).

    Args:
        codec: codec C with error feedback e; the default quantises to 8 bits.
        gamma: consensus step in (0, 1], or "auto".
        momentum: momentum of the local steps, in [0, 1), kept from round to round.

    Raises:
        LocalError: an argument is outside its range, or the codec has a state.

    >>> DeepSqueeze().codec
    flat(ErrorFeedback(chain(Quantize(bits=8), Rans())))

    Source: Tang et al. 2019 (arXiv 1907.07346). A round costs more bytes than a CHOCO round of equal error. A node
    keeps no copies of its neighbours' vectors, so that any network works.
    """

    wire_name: ClassVar[str] = "deep_squeeze"

    codec: Codec = field(default_factory=lambda: flat(ErrorFeedback(chain(Quantize(bits=8), Rans()))))
    gamma: float | str = 0.3

    def combine(self, half: Tensor, consensus: Tensor, eta: float, spec: TreeSpec) -> Tensor:
        return half.add(consensus, alpha=self.step_size)
