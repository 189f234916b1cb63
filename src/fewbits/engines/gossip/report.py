"""GossipReport: one line of a gossip run's metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GossipReport:
    """Byte figures are cumulative and come from the ledger; the rest is of this round; None: not looked at."""

    round: int  # from 1
    accuracy: float | None  # mean over nodes, each node's own model on the test set
    worst_accuracy: float | None  # the least of them
    accuracies: list[float] | None  # by node
    mean_accuracy: float | None  # of the mean of all models
    loss: float | None  # of the mean model on the test set, without the regulariser
    penalty: float | None  # the regulariser of the mean model
    stationarity: float | None  # |x - prox(x - eta grad F(x))| / eta of the mean model, on 1,000 training examples
    train_loss: float  # mean over the waking nodes
    consensus: float  # |X - mean|_F
    sparsity: float  # share of exact zeros among the parameters of all nodes
    frame_bytes: int  # len() of all frames, each counted once: what a broadcast medium carries
    link_bytes: int  # each counted once per neighbour that it went to: what point-to-point links carry
    payload_bytes: int  # of frame_bytes
    coded_bits: float | None  # measured: the levels of this round's frames, entropy-coded; None: no levels
    entropy_bits: float | None  # the entropy of each frame's levels times their number
    predicted_bits: float | None  # predicted: the closed form of the vector source coder
    spectral_gap: float  # of this round's mixing matrix
    inactive: int  # nodes asleep
    seconds: float  # wall, since the first round, evaluations included
