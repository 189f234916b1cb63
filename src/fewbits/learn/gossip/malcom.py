"""Malcom-PSGD: CHOCO with a proximal step and the vector source coder.

Campbell, Liu, Woldemariam, Scaglione, arXiv 2311.05760; the coder: arXiv 2309.05633.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from fewbits.codecs import Codec, Quantize, chain, flat
from fewbits.coders import Golomb
from fewbits.learn.gossip.choco import Choco
from fewbits.learn.gossip.prox import L1, Prox


@dataclass(frozen=True)
class Malcom(Choco):
    """min (1/n) sum_i F_i(x) + r(x), r = mu |x|_1 by default. At node i, in the paper's order:

    1. x_half = x - eta grad(x; batch)
    2. q = Q(x_half - xhat_i), dithered levels of the residual
    3. q, entropy-coded, to every neighbour; theirs back
    4. xhat_j += q_j for every neighbour j and i itself
    5. z = x_half + gamma sum_j w_ij (xhat_j - xhat_i)
    6. x = prox_{eta r}(z) = sign(z) max(|z| - eta mu, 0)

    With mu = 0 it is CHOCO with the same codec, bit for bit. With several local steps eta is their sum. Under
    `position="mixed"`, steps 5 and 6 come before 2, and what is sent is the residual of the sparse x.
    """

    wire_name: ClassVar[str] = "malcom"

    codec: Codec = field(default_factory=lambda: flat(chain(Quantize(bits=4), Golomb())))
    regulariser: Prox = field(default_factory=lambda: L1(1e-5))

    @property
    def prox(self) -> Prox:
        """The regulariser's."""
        return self.regulariser
