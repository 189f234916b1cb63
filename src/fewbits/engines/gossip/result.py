"""GossipResult: the models, reports and byte counts of a run without a server."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from fewbits.engines.gossip.report import GossipReport
from fewbits.engines.run_result import RunResult
from fewbits.links import Ledger


@dataclass(frozen=True, eq=False, repr=False)
class GossipResult(RunResult):
    """The nodes' models and what was measured on the way. A notebook shows it as a small table, `print` as a line.

    Example:
        >>> import torch, fewbits as fb
        >>> nodes = [(torch.eye(3), torch.arange(3))] * 4
        >>> result = fb.gossip(torch.nn.Linear(3, 3), nodes, fb.topology.ring(4), "dsgd", rounds=2)
        >>> result.bytes == result.reports[-1].frame_bytes, len(result.history)
        (True, 2)
    """

    model: nn.Module  # the given model; its weights are the mean of all nodes' models
    models: Tensor  # (n, P+B) float32: one model per node, in the layout of FlatModel.whole
    reports: list[GossipReport]  # one per round
    ledger: Ledger  # "up": a node's frame, counted once; "down": what a node received from all its neighbours
    notes: list[str]  # sentences about damage that the run repaired

    @property
    def accuracy(self) -> float | None:
        """The last measured accuracy: the mean over the nodes' own models."""
        return self._last("accuracy")

    @property
    def metric(self) -> float | None:
        """The last value of the run's metric, likewise a mean over the nodes; None: it was not measured."""
        return self._last("metric")

    @property
    def loss(self) -> float | None:
        """The last finite loss of the mean model on the test set, without the regulariser; None: there is none."""
        return self._last("loss")

    @property
    def bytes(self) -> int:
        """Length of all frames of the run, each counted once, headers included."""
        return self.ledger.frame_bytes["up"]

    def _sent(self) -> dict[str, str]:
        from fewbits.report.text import megabytes

        sent = self.ledger.frame_bytes
        return {"MB sent": megabytes(sent["up"]), "MB links": megabytes(sent["down"])}

    def _counted(self) -> str:
        return "each frame once"
