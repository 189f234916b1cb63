"""GossipReport: one line of a gossip run's metrics."""

from __future__ import annotations

from dataclasses import dataclass

from fewbits.engines.gossip.evaluator import ModelMeasures
from fewbits.engines.gossip.trainer import StepReport
from fewbits.links import Ledger
from fewbits.topology import Topology


@dataclass(frozen=True)
class GossipReport:
    """Metrics of one round; byte counts are cumulative and come from the ledger. None: not measured in this round."""

    round: int  # from 1
    accuracy: float | None  # mean over nodes, each node's own model on the test set
    worst_accuracy: float | None  # the lowest of them
    accuracies: list[float] | None  # by node
    mean_accuracy: float | None  # accuracy of the mean of all models
    loss: float | None  # loss of the mean model on the test set, without the regulariser
    penalty: float | None  # the regulariser of the mean model
    stationarity: float | None  # |x - prox(x - eta grad F(x))| / eta of the mean model, on 1,000 training examples
    train_loss: float  # mean over the active nodes
    consensus: float  # |X - mean|_F
    sparsity: float  # share of exact zeros among the parameters of all nodes
    frame_bytes: int  # len() of all frames, each counted once, as a broadcast medium carries them
    link_bytes: int  # the same, counted once per receiving neighbour, as point-to-point links carry them
    payload_bytes: int  # the part of frame_bytes without headers
    coded_bits: float | None  # measured bits of the levels in this round's frames; None: no levels
    entropy_bits: float | None  # the entropy of each frame's levels times their number
    predicted_bits: float | None  # the closed form of the vector source coder
    spectral_gap: float  # of this round's mixing matrix
    inactive: int  # number of inactive nodes
    seconds: float  # wall time since the first round, with evaluations
    metric: float | None = None  # the task's metric: mean over nodes, each node's own model on the test set
    mean_metric: float | None = None  # of the mean of all models
    metric_name: str | None = None  # the name of its function

    @staticmethod
    def of(
        round: int,
        steps: list[StepReport],
        measures: ModelMeasures,
        topology: Topology,
        ledger: Ledger,
        seconds: float,
    ) -> GossipReport:
        """The report of a round; `topology` is this round's."""
        accuracies, evaluation = _known(measures.accuracies), measures.evaluation
        metrics = _known(measures.metrics)
        return GossipReport(
            round=round,
            accuracy=sum(accuracies) / len(accuracies) if accuracies else None,
            worst_accuracy=min(accuracies) if accuracies else None,
            accuracies=accuracies,
            mean_accuracy=evaluation.get("mean_accuracy"),
            loss=evaluation.get("loss"),
            penalty=evaluation.get("penalty"),
            stationarity=evaluation.get("stationarity"),
            train_loss=sum(step.loss for step in steps) / max(1, len(steps)),
            consensus=measures.consensus,
            sparsity=measures.sparsity,
            frame_bytes=ledger.frame_bytes["up"],
            link_bytes=ledger.frame_bytes["down"],
            payload_bytes=ledger.payload_bytes["up"],
            coded_bits=_total(steps, "coded"),
            entropy_bits=_total(steps, "entropy"),
            predicted_bits=_total(steps, "predicted"),
            spectral_gap=topology.gap,
            inactive=len(topology.inactive),
            seconds=seconds,
            metric=sum(metrics) / len(metrics) if metrics else None,
            mean_metric=evaluation.get("mean_metric"),
            metric_name=measures.metric_name,
        )


def _known(values: list[float | None]) -> list[float] | None:
    """The nodes' values; None when a node has none."""
    known = [value for value in values if value is not None]
    return known if known and len(known) == len(values) else None


def _total(steps: list[StepReport], name: str) -> float | None:
    values = [step.level_bits[name] for step in steps if name in step.level_bits]
    return sum(values) if values else None
