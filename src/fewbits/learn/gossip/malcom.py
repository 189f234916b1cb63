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
    """Malcom-PSGD: CHOCO with a proximal step, which makes weights exactly zero.

    It minimises (1/n) sum_i F_i(x) + r(x), with r = mu |x|_1 by default. At node i, in the paper's order:

    1. x_half = x - eta grad(x; batch)
    2. q = Q(x_half - xhat_i), dithered levels of the difference
    3. send q, entropy-coded, to every neighbour; receive theirs
    4. xhat_j += q_j for every neighbour j and i itself
    5. z = x_half + gamma sum_j w_ij (xhat_j - xhat_i)
    6. x = prox_{eta r}(z) = sign(z) max(|z| - eta mu, 0)

    Args:
        codec: quantiser and vector source coder; the default uses 4 bits and `Golomb`.
        gamma, momentum, position, start: as in `Choco`. With "mixed", steps 5 and 6 come before step 2.
        regulariser: r and its proximal operator: `L1`, `GroupL1` or `NoProx`.

    Raises:
        LocalError: as in `Choco`.

    >>> Malcom().regulariser
    L1(mu=1e-05)

    Source: Campbell et al. 2023 (arXiv 2311.05760) and, for the coder, arXiv 2309.05633. With several local steps, eta
    is the sum of their learning rates. With mu = 0, Malcom is CHOCO with the same codec, bit for bit.
    """

    wire_name: ClassVar[str] = "malcom"

    codec: Codec = field(default_factory=lambda: flat(chain(Quantize(bits=4), Golomb())))
    regulariser: Prox = field(default_factory=lambda: L1(1e-5))

    @property
    def prox(self) -> Prox:
        return self.regulariser
