"""FetchServer: the server's half of FetchSGD; the clients' half is the uplink, a MeanSketch with a fixed seed."""

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
    """Change `rule.k` entries of the model per round; momentum and error feedback are sketches at the server.

    `update` is the mean of the clients' sketches, which is never expanded. Clients keep no state.

    Args:
        linear_prefix: the sketch of the clients' updates; one seed for all rounds.
        rule: the rule of a round at the server.

    Raises:
        LocalError: the sketch has no fixed seed.

    References:
        Rothchild et al., FetchSGD: Communication-Efficient Federated Learning with Sketching, ICML 2020, Algorithm 1.
        Difference: in the paper a client sends the sketch of one gradient, here of the change by its local steps. That
        includes the clients' learning rate, and `rule.lr` multiplies it.
    """

    wire_name: ClassVar[str] = "fetch_server"

    linear_prefix: MeanSketch  # the sketch of the clients' updates, the same in all rounds
    rule: FetchSGD  # the rule of a round at the server

    def __post_init__(self) -> None:
        if self.linear_prefix.seed is None:
            raise LocalError("FetchServer: tables of several rounds are added, so the sketch needs a seed; got None")

    @property
    def carrier(self) -> MeanSketch:
        return self.linear_prefix

    def _sketch(self, numel: int) -> Sketch:
        return self.linear_prefix.sketch(Spec((numel,)))

    def init(self, numel: int) -> Moments:
        return self.rule.init(self._sketch(numel))

    def step(self, theta: Tensor, update: Tensor, moments: Moments, *, share: float = 1.0) -> tuple[Tensor, Moments]:
        found = self.rule.step(self._sketch(len(theta)), update, *moments)
        return theta.index_add(0, found.support, found.values, alpha=-1), (found.momentum, found.error)
