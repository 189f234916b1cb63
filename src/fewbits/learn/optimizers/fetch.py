"""FetchSGD, the server's half; the clients' half is the uplink, a MeanSketch with a seed of its own.

Rothchild et al., FetchSGD: Communication-Efficient Federated Learning with Sketching, ICML 2020, Algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fewbits.codecs import FetchSGD, MeanSketch
from fewbits.codecs.transforms.sketch import Sketch
from fewbits.errors import LocalError
from fewbits.learn.optimizers.base import Moments, ServerOptimizer
from fewbits.spec import Spec


@dataclass(frozen=True)
class FetchServer(ServerOptimizer):
    """theta moves at `rule.k` entries a round; momentum and error are tables, and clients keep nothing.

    `update` is the mean of the clients' tables, as they were added, never expanded. In the paper a client sends the
    sketch of one gradient; here that of what its local steps changed, so that the clients' rate is in it already and
    `rule.lr` multiplies it.
    """

    wire_name: ClassVar[str] = "fetch_server"

    linear_prefix: MeanSketch  # what the clients' updates become, by one sketch in all rounds
    rule: FetchSGD  # a round at the server

    def __post_init__(self) -> None:
        if self.linear_prefix.seed is None:
            raise LocalError("FetchServer: tables of several rounds are added, so the sketch needs a seed; got None")

    @property
    def carrier(self) -> MeanSketch:
        """The sketch."""
        return self.linear_prefix

    def _sketch(self, numel: int) -> Sketch:
        return self.linear_prefix.sketch(Spec((numel,)))

    def init(self, numel: int) -> Moments:
        """u = e = 0.  # (numbers,) each"""
        return self.rule.init(self._sketch(numel))

    def step(self, theta: Tensor, update: Tensor, moments: Moments, *, share: float = 1.0) -> tuple[Tensor, Moments]:
        """One round of `rule`; `update` is a table.  # (numbers,)"""
        found = self.rule.step(self._sketch(len(theta)), update, *moments)
        return theta.index_add(0, found.support, found.values, alpha=-1), (found.momentum, found.error)
