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

    `accuracy` and `metric` are means over the nodes' own models. `loss` is that of the mean model, without the
    regulariser.

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
    def bytes(self) -> int:
        """Length of all frames of the run, each counted once, headers included."""
        return self.ledger.frame_bytes["up"]

    def _sent(self) -> dict[str, str]:
        from fewbits.report.text import megabytes

        sent = self.ledger.frame_bytes
        return {"MB sent": megabytes(sent["up"]), "MB links": megabytes(sent["down"])}

    def _counted(self) -> str:
        return "each frame once"
