"""GossipReport: one line of a gossip run's metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from fewbits.engines.common.failed_turn import common_failure
from fewbits.engines.common.task import Task
from fewbits.engines.gossip.evaluator import ModelMeasures
from fewbits.engines.gossip.trainer import StepReport
from fewbits.errors import LocalError
from fewbits.learn.gossip.neighbour_watch import LeftOut
from fewbits.links import Ledger
from fewbits.topology import Topology


@dataclass(frozen=True)
class GossipReport:
    """Metrics of one round; byte counts are cumulative and come from the ledger. None: not measured in this round."""

    round: int  # from 1
    accuracy: float | None  # mean over nodes, each node's own model on the test set
    worst_accuracy: float | None  # the lowest of the nodes' accuracies
    accuracies: list[float] | None  # each node's own accuracy, by node
    mean_accuracy: float | None  # accuracy of the mean of all models
    loss: float | None  # loss of the mean model on the test set, without the regulariser
    penalty: float | None  # the regulariser of the mean model
    stationarity: float | None  # |x - prox(x - eta grad F(x))| / eta of the mean model, on 1,000 training examples
    train_loss: float | None  # mean over the nodes that took steps, each over its steps with a finite loss
    consensus: float | None  # consensus distance |X - mean|_F; None: it was not finite
    sparsity: float  # share of exact zeros among the parameters of all nodes
    frame_bytes: int  # len() of all frames, each counted once, as a broadcast medium carries them
    link_bytes: int  # of all frames, counted once per receiving neighbour, as point-to-point links carry them
    payload_bytes: int  # the part of frame_bytes without headers
    coded_bits: float | None  # measured bits of the levels in this round's frames; None: no levels
    entropy_bits: float | None  # the entropy of each frame's levels times their number
    predicted_bits: float | None  # the closed form of the vector source coder
    spectral_gap: float  # of this round's mixing matrix
    inactive: int  # number of inactive nodes
    seconds: float  # wall time since the first round, with evaluations
    metric: float | None = None  # the task's metric: mean over nodes, each node's own model on the test set
    mean_metric: float | None = None  # metric of the mean of all models
    metric_name: str | None = None  # the name of the metric's function
    skipped: int = 0  # active nodes without a local step, as the user's model or loss raised, or gave no finite model
    left_out: int = 0  # frames that a node did without, as they could not be used or would have ruined its training
    diverged: bool = False  # the loss of the mean model was not finite, or no node's training was
    notes: list[str] = field(default_factory=list)  # sentences about faults; each kind is said once in a run

    @property
    def bytes(self) -> int:
        """All frames so far, each counted once."""
        return self.frame_bytes

    @staticmethod
    def of(
        round: int,
        steps: list[StepReport],
        measures: ModelMeasures,
        topology: Topology,
        ledger: Ledger,
        seconds: float,
        notes: list[str],
    ) -> GossipReport:
        """The report of a round; `topology` is this round's."""
        accuracies, evaluation = _known(measures.accuracies), measures.evaluation
        metrics = _known(measures.metrics)
        losses = [step.loss for step in steps if step.loss is not None]
        measured = {name: x for name, x in evaluation.items() if x is not None}
        finite = {name: x for name, x in measured.items() if math.isfinite(x)}
        return GossipReport(
            round=round,
            accuracy=sum(accuracies) / len(accuracies) if accuracies else None,
            worst_accuracy=min(accuracies) if accuracies else None,
            accuracies=accuracies,
            mean_accuracy=finite.get("mean_accuracy"),
            loss=finite.get("loss"),
            penalty=finite.get("penalty"),
            stationarity=finite.get("stationarity"),
            train_loss=sum(losses) / len(losses) if losses else None,
            consensus=measures.consensus if math.isfinite(measures.consensus) else None,
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
            mean_metric=finite.get("mean_metric"),
            metric_name=measures.metric_name,
            skipped=sum(bool(step.trouble) for step in steps),
            diverged="loss" in measured.keys() - finite.keys() or _all_diverged(steps),
            notes=notes,
        )


def sentences(round: int, steps: Sequence[StepReport], left_out: Sequence[LeftOut]) -> list[str]:
    """About what went wrong in a round, for a run's notes."""
    found = [f"round {round}: node {s.node} took no step: {s.trouble}" for s in steps if s.trouble]
    found += [f"round {round}: node {s.node}: {s.loss_note}" for s in steps if s.loss_note]
    found += [f"round {round}: node {x.node} left out node {x.neighbour}'s frame: {x.why}" for x in left_out]
    if steps and all(s.trouble for s in steps):
        found.append(f"round {round}: no node took a step")
    return found


def totals(reports: Sequence[GossipReport]) -> list[str]:
    """About a whole run, for its notes: how often a node took no step, or left a frame out."""
    skipped, left_out, rounds = sum(r.skipped for r in reports), sum(r.left_out for r in reports), len(reports)
    within = f"in {rounds:,} reported round{'s' * (rounds != 1)}"
    found = [f"nodes took no step {skipped:,} time{'s' * (skipped > 1)} {within}"] if skipped else []
    return found + ([f"nodes left out {left_out:,} frame{'s' * (left_out > 1)} {within}"] if left_out else [])


def check_first(round: int, steps: Sequence[StepReport], task: Task) -> None:
    """LocalError when every node of the first round raised the same."""
    raised = [step.trouble for step in steps if step.raised and step.node not in task.unfit]
    fault = common_failure(raised, len(steps), task.clients) if round == 1 and steps else None
    if fault is not None:
        raise LocalError(
            f"every node failed alike in round 1, so the model, the loss or the data is at fault. Node "
            f"{steps[0].node}: {fault}"
        )


def _known(values: list[float | None]) -> list[float] | None:
    """The nodes' values; None when a node has none."""
    known = [value for value in values if value is not None]
    return known if known and len(known) == len(values) else None


def _all_diverged(steps: Sequence[StepReport]) -> bool:
    return bool(steps) and all(step.trouble and not step.raised for step in steps)


def _total(steps: list[StepReport], name: str) -> float | None:
    values = [step.level_bits[name] for step in steps if name in step.level_bits]
    return sum(values) if values else None
