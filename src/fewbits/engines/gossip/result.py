"""GossipResult: the models, reports and byte counts of a run without a server."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from fewbits.engines.gossip.report import GossipReport
from fewbits.links import Ledger


@dataclass(frozen=True, eq=False)
class GossipResult:
    """The result of a run."""

    model: nn.Module  # the given model; its weights are the mean of all nodes' models
    models: Tensor  # (n, P+B) float32: one model per node, in the layout of FlatModel.whole
    reports: list[GossipReport]  # one per round
    ledger: Ledger  # "up": a node's frame, counted once; "down": what a node received from all its neighbours
    notes: list[str]  # sentences about damage that the run repaired

    @property
    def accuracy(self) -> float | None:
        """The last measured accuracy: the mean over the nodes' own models."""
        return next((r.accuracy for r in reversed(self.reports) if r.accuracy is not None), None)

    @property
    def metric(self) -> float | None:
        """The last value of the run's metric, likewise a mean over the nodes; None: it was not measured."""
        return next((r.metric for r in reversed(self.reports) if r.metric is not None), None)
