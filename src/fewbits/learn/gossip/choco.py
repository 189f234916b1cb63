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
    """At node i, with public copies xhat_j that all of j's neighbours hold alike:

    1. x_half = x - eta grad(x)
    2. q = C(x_half - xhat_i), sent to all neighbours
    3. xhat_j += q_j for every neighbour j and i itself
    4. x = x_half + gamma sum_j w_ij (xhat_j - xhat_i)

    `position="mixed"` is the order of the later paper (Koloskova et al., ICLR 2020, Algorithm 1): 4 with the copies of
    the round before, then q = C(x - xhat_i), so that sending overlaps the next gradient.
    """

    wire_name: ClassVar[str] = "choco"

    codec: Codec = field(default_factory=lambda: flat(chain(Quantize(bits=4), Rans())))
    position: str = "half"  # of what is sent: "half", before the consensus step, or "mixed", after it
    start: str = "common"  # xhat = x0 everywhere, equal by a common seed and free; or "zero": x0 is sent in round 1

    residual: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of(f"{type(self).__name__}: position", self.position, POSITIONS)
        check_one_of(f"{type(self).__name__}: start", self.start, STARTS)

    @property
    def mixes_first(self) -> bool:
        """In the order of the later paper."""
        return self.position == "mixed"

    def combine(self, half: Tensor, consensus: Tensor, eta: float, spec: TreeSpec) -> Tensor:
        """x_half + gamma sum_j w_ij (xhat_j - xhat_i), and the proximal step of those that have one."""
        return self.prox(half.add(consensus, alpha=self.step_size), eta, spec)
