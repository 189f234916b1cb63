"""CHOCO-SGD: gossip with compressed differences (Koloskova, Stich, Jaggi, ICML 2019, Algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from fewbits.checks import check_one_of
from fewbits.codecs import Codec, Quantize, chain, flat
from fewbits.coders import Rans
from fewbits.learn.gossip.method import GossipMethod
from fewbits.spec import TreeSpec

POSITIONS = ("half", "mixed")
STARTS = ("common", "zero")


@dataclass(frozen=True)
class Choco(GossipMethod):
    """CHOCO-SGD: every node sends compressed differences to its public vector.

    At node i, where node j and all its neighbours have the same public vector xhat_j:

    1. x_half = x - eta grad(x)
    2. q = C(x_half - xhat_i), sent to all neighbours
    3. xhat_j += q_j for every neighbour j and i itself
    4. x = x_half + gamma sum_j w_ij (xhat_j - xhat_i)

    Args:
        codec: codec C of the differences, without a state; the default quantises to 4 bits.
        gamma: consensus step in (0, 1]; "auto" computes it, see `fewbits.learn.gossip.auto`.
        momentum: momentum of the local steps, in [0, 1), kept from round to round.
        position: what a frame describes. "half": the model before step 4. "mixed": the model after step 4, which uses
            the public vectors of the previous round.
        start: "common": xhat = x0 everywhere, from a common seed. "zero": xhat = 0, and x0 travels in round 1.

    Raises:
        LocalError: an argument is outside its range, or the codec has a state or error feedback.

    >>> Choco().codec
    flat(chain(Quantize(bits=4), Rans()))

    Source: Koloskova et al. 2019 (arXiv 1902.00340), Algorithm 2; `position="mixed"`: Koloskova et al. 2020
    (arXiv 1907.09356), Algorithm 1. We entropy-code the levels; the papers count fixed widths.
    """

    wire_name: ClassVar[str] = "choco"

    codec: Codec = field(default_factory=lambda: flat(chain(Quantize(bits=4), Rans())))
    position: str = "half"
    start: str = "common"

    residual: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of(f"{type(self).__name__}: position", self.position, POSITIONS)
        check_one_of(f"{type(self).__name__}: start", self.start, STARTS)

    @property
    def mixes_first(self) -> bool:
        return self.position == "mixed"

    def combine(self, half: Tensor, consensus: Tensor, eta: float, spec: TreeSpec) -> Tensor:
        return self.prox(half.add(consensus, alpha=self.step_size), eta, spec)
