"""RoundReport: one line of a run's metrics, and the replies that it is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fewbits.engines.simulation.evaluation import Evaluation
from fewbits.engines.simulation.worker import Reply
from fewbits.links import Ledger
from fewbits.privacy.account import PrivacyLoss

MOST_SENTENCES = 10  # about clients without an update, in one round


@dataclass(frozen=True)
class RoundReport:
    """The figures of one round. Byte figures are sums since the run began, out of the ledger.

    Example:
        >>> import torch, fewbits as fb
        >>> x, y = torch.randn(20, 3), torch.arange(20) % 2
        >>> report = fb.federate(torch.nn.Linear(3, 2), [(x, y)], fb.methods.dense(), rounds=1).reports[0]
        >>> report.round, report.clients, report.up_payload_bytes
        (1, 1, 32)
    """

    round: int  # from 1
    # Of the public model on the test set; where clients have personal models, this is `personal_accuracy`. None: this
    # round was not evaluated.
    accuracy: float | None
    loss: float | None  # of the public model on the test set
    train_loss: float  # mean over the round's clients, of their last epoch
    up_frame_bytes: int
    down_frame_bytes: int
    up_payload_bytes: int
    down_payload_bytes: int
    clients: int  # whose update was used
    skipped: int  # without an update, because it was not finite
    rejected: int  # whose frame could not be used
    recycled: float | None  # share of this round's updates sent as a scalar; None: the method does not recycle
    floor: float | None  # largest |g/tau|^2 sin^2 of a recycled update: the additive term of LBGM's bound
    seconds: float  # wall time since the first round, evaluations included
    personal_accuracy: float | None = None  # mean over all clients, each one's model on its own holdout
    personal_spread: float | None = None  # their standard deviation
    personal_worst: float | None = None  # mean of the worst tenth of the clients
    # In subspaces: mean over the round's clients of (D/d) |A^T u|^2 / |u|^2, with u a client's update. It is 1 when
    # the subspace holds as much of u as of a random vector.
    isotropy: float | None = None
    effective_step: float | None = None  # in subspaces: how far a local step moves theta along an isotropic gradient
    # Under dp, of the rounds so far; see docs/secure-aggregation.md. "central": against those who see the models alone.
    # "local": against the server, which sees messages, or sums under masks.
    epsilon: float | None = None  # an upper bound, of the kind below
    epsilon_kind: str | None = None  # "central" or "local"
    neighbours: str | None = None  # of epsilon: "with or without one client", or "one client's data replaced"
    delta: float | None = None  # of both epsilons
    epsilon_local: float | None = None  # of the client that spent most; neighbours: one client's data replaced

    @staticmethod
    def of(
        round: int,
        replies: RoundReplies,
        evaluation: Evaluation,
        ledger: Ledger,
        seconds: float,
        privacy: PrivacyLoss | None,
    ) -> RoundReport:
        """The report of a round that just ended."""
        return RoundReport(
            round=round,
            accuracy=evaluation.accuracy,
            loss=evaluation.loss,
            personal_accuracy=evaluation.personal_accuracy,
            personal_spread=evaluation.personal_spread,
            personal_worst=evaluation.personal_worst,
            train_loss=_mean(replies.figures("loss")) or 0.0,
            up_frame_bytes=ledger.frame_bytes["up"],
            down_frame_bytes=ledger.frame_bytes["down"],
            up_payload_bytes=ledger.payload_bytes["up"],
            down_payload_bytes=ledger.payload_bytes["down"],
            clients=replies.used,
            skipped=len(replies.skipped),
            rejected=replies.rejected,
            recycled=_mean(replies.figures("recycled")),
            floor=max(replies.figures("floor"), default=None),
            seconds=seconds,
            isotropy=_mean(replies.figures("isotropy")),
            effective_step=_mean(replies.figures("effective_step")),
            epsilon=privacy and privacy.epsilon,
            epsilon_kind=privacy and privacy.kind,
            neighbours=privacy and privacy.neighbours,
            delta=privacy and privacy.delta,
            epsilon_local=privacy and privacy.local,
        )


@dataclass(frozen=True)
class RoundReplies:
    """What came back from the clients of one round."""

    replies: list[Reply]
    rejected: int  # frames that the server left out
    void: str  # why masks stayed in the sum, so that no update was used; "": they did not
    noise: bool = False  # the model moves in every round, by noise alone when no update was used

    @property
    def skipped(self) -> list[Reply]:
        """Replies without a frame."""
        return [reply for reply in self.replies if reply.trouble]

    @property
    def used(self) -> int:
        """Clients whose update is in the model."""
        return 0 if self.void else len(self.replies) - len(self.skipped) - self.rejected

    def figures(self, name: str) -> list[float]:
        """One figure of every reply that has it."""
        return [reply.figures[name] for reply in self.replies if not reply.trouble and name in reply.figures]

    def sentences(self, round: int) -> list[str]:
        """About what went wrong, for a run's notes."""
        alone = "; the model moved by noise alone" if self.noise and not self.used else ""
        void = f"round {round} is void: {self.void}" if self.void else ""
        if not self.replies and not void:
            return [f"round {round}: no client was drawn{alone}"]
        said = [f"{void or f'round {round}: no update arrived'}{alone}"] if void or alone else []
        return (
            said + [f"round {round}: client {r.client} was skipped: {r.trouble}" for r in self.skipped][:MOST_SENTENCES]
        )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
