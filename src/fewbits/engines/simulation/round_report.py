"""RoundReport: one line of a run's metrics, and the replies that it is made from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fewbits.engines.simulation.evaluation import Evaluation
from fewbits.engines.simulation.worker import Reply
from fewbits.links import Ledger
from fewbits.privacy.account import PrivacyLoss
from fewbits.privacy.pairwise_masking import cut_sentence


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
    # of the public model on the test set; where clients have personal models, this is `personal_accuracy`; None: this
    # round was not evaluated, or an accuracy means nothing for such outputs and targets
    accuracy: float | None
    loss: float | None  # of the public model on the test set; None as well when it was not finite
    # mean over the clients whose update was used, of their steps with a finite loss; None: there was none
    train_loss: float | None
    up_frame_bytes: int  # all frames from clients to the server, headers included, since the run began
    down_frame_bytes: int  # all that clients received, headers and lengths included, since the run began
    up_payload_bytes: int  # the part of up_frame_bytes that is payload
    down_payload_bytes: int  # the part of down_frame_bytes that is payload
    clients: int  # number of clients whose update was used
    skipped: int  # clients without an update: it was not finite, or the user's model, loss or data raised
    rejected: int  # clients whose frame could not be used
    recycled: float | None  # share of this round's updates sent as a scalar; None: the method does not recycle
    floor: float | None  # largest |g/tau|^2 sin^2 of a recycled update: the additive term of LBGM's bound
    seconds: float  # wall time since the first round, evaluations included
    personal_accuracy: float | None = None  # mean over all clients, each one's model on its own holdout
    personal_spread: float | None = None  # standard deviation of that accuracy over the clients
    personal_worst: float | None = None  # mean of that accuracy over the worst tenth of the clients
    # in subspaces: mean over the round's clients of (D/d) |A^T u|^2 / |u|^2, with u a client's update; 1: the
    # subspace holds as much of u as of a random vector
    isotropy: float | None = None
    effective_step: float | None = None  # in subspaces: how far a local step moves theta along an isotropic gradient
    metric: float | None = None  # the task's metric, of the model and on the examples that `accuracy` is of
    metric_name: str | None = None  # the name of the metric's function
    personal_metric: float | None = None  # mean of the metric over all clients, each one's model on its own holdout
    diverged: bool = False  # the loss on the test set was not finite, or no client's update was
    notes: list[str] = field(default_factory=list)  # sentences about faults; each kind is said once in a run
    epsilon: float | None = None  # under dp, of the rounds so far: an upper bound, of the kind `epsilon_kind`
    # "central": against those who see the models alone; "local": against the server, which sees messages, or sums under
    # masks
    epsilon_kind: str | None = None
    # what epsilon tells apart: "with or without one client", or "one client's data replaced"
    neighbours: str | None = None
    delta: float | None = None  # of epsilon and of epsilon_local
    # against the server, of the client that spent most; what it tells apart: one client's data replaced
    epsilon_local: float | None = None
    # bytes of the smallest message of this round that the budget left no room for; None: all had room
    too_dear: int | None = None
    asked: int = 0  # clients that were asked to train
    # least over the clients, each one's model on its own holdout: of accuracies, or the metric where they mean nothing
    personal_least: float | None = None
    personal_tenth: float | None = None  # of the same values: a tenth of the clients has this or less
    personal_median: float | None = None  # of the same values: half of the clients have this or less
    personal_ninetieth: float | None = None  # of the same values: nine tenths of the clients have this or less
    unsent: int = 0  # clients whose frame the budget had no room for

    @property
    def bytes(self) -> int:
        """All frames so far, both directions."""
        return self.up_frame_bytes + self.down_frame_bytes

    @staticmethod
    def of(
        round: int,
        replies: RoundReplies,
        evaluation: Evaluation,
        ledger: Ledger,
        seconds: float,
        privacy: PrivacyLoss | None,
        notes: list[str],
        metric_name: str | None = None,
    ) -> RoundReport:
        """The report of a round that just ended."""
        return RoundReport(
            round=round,
            accuracy=evaluation.accuracy,
            loss=evaluation.loss if is_finite(evaluation) else None,
            personal_accuracy=evaluation.personal_accuracy,
            personal_spread=evaluation.personal_spread,
            personal_worst=evaluation.personal_worst,
            personal_least=evaluation.personal_least,
            personal_tenth=evaluation.personal_tenth,
            personal_median=evaluation.personal_median,
            personal_ninetieth=evaluation.personal_ninetieth,
            train_loss=_mean(replies.losses),
            up_frame_bytes=ledger.frame_bytes["up"],
            down_frame_bytes=ledger.frame_bytes["down"],
            up_payload_bytes=ledger.payload_bytes["up"],
            down_payload_bytes=ledger.payload_bytes["down"],
            clients=replies.used,
            skipped=len(replies.skipped),
            rejected=len(replies.rejected),
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
            metric=evaluation.metric,
            metric_name=metric_name,
            personal_metric=evaluation.personal_metric,
            diverged=replies.diverged or not is_finite(evaluation),
            notes=notes,
            too_dear=replies.too_dear,
            asked=len(replies.replies),
            unsent=len(replies.unsent),
        )


def is_finite(evaluation: Evaluation) -> bool:
    """Whether the public model's loss was finite, or not measured."""
    return evaluation.loss is None or math.isfinite(evaluation.loss)


@dataclass(frozen=True)
class RoundReplies:
    """What came back from the clients of one round."""

    replies: list[Reply]
    rejected: Mapping[int, str]  # clients whose frame the server left out, and why
    void: str  # why masks stayed in the sum, so that no update was used; "": they did not
    noise: bool = False  # the model moves in every round, by noise alone when no update was used
    # clients whose frame the budget had no room for: bytes of the frame, and of the budget
    unsent: Mapping[int, str] = field(default_factory=dict)
    too_dear: int | None = None  # bytes of the smallest message that the budget refused

    @property
    def skipped(self) -> list[Reply]:
        """Replies without a frame."""
        return [reply for reply in self.replies if reply.trouble]

    @property
    def used(self) -> int:
        """Clients whose update is in the model."""
        return 0 if self.void else len(self.replies) - self.frameless - len(self.rejected)

    @property
    def frameless(self) -> int:
        """Clients that sent no frame."""
        return len(self.skipped) + len(self.unsent)

    @property
    def diverged(self) -> bool:
        """Whether no client's update was finite."""
        return bool(self.replies) and all(reply.trouble and not reply.raised for reply in self.replies)

    @property
    def losses(self) -> list[float]:
        """Training losses of the clients whose update is in the model."""
        without = self.rejected.keys() | self.unsent.keys()
        used = [] if self.void else [r for r in self.replies if not r.trouble and r.client not in without]
        return [reply.figures["loss"] for reply in used if "loss" in reply.figures]

    def figures(self, name: str) -> list[float]:
        """One figure of every reply that has it."""
        return [reply.figures[name] for reply in self.replies if not reply.trouble and name in reply.figures]

    @property
    def remarks(self) -> list[str]:
        """About tensors that training changed and that do not travel, each once."""
        return list(dict.fromkeys(remark for reply in self.replies for remark in reply.remarks))

    def sentences(self, round: int) -> list[str]:
        """About what went wrong, for a run's notes."""
        alone = "; the model moved by noise alone" if self.noise and not self.used else ""
        void = f"round {round} is void: {self.void}" if self.void else ""
        if not self.replies and not void:
            return [f"round {round}: no client was drawn{alone}"]
        found = [f"{void or f'round {round}: no update arrived'}{alone}"] if void or alone else []
        found += [f"round {round}: client {r.client} was skipped: {r.trouble}" for r in self.skipped]
        found += [f"round {round}: client {c} was left out: {why}" for c, why in self.rejected.items()]
        found += [f"round {round}: client {c} did not send its frame: {why}" for c, why in self.unsent.items()]
        noted = [r for r in self.replies if r.loss_note and not r.trouble]
        found += [f"round {round}: client {r.client}: {r.loss_note}" for r in noted]
        cut = sum(self.figures("cut"))
        found += [f"round {round}: {cut_sentence(cut)}"] if cut else []
        if not self.used and not void and not alone:
            found.append(f"round {round}: no client counted; the model stays as it was")
        return found


def totals(reports: Sequence[RoundReport]) -> list[str]:
    """About a whole run, for its notes: how many turns of clients do not count, and whether any does."""
    skipped, rejected = sum(r.skipped for r in reports), sum(r.rejected for r in reports)
    found = []
    if skipped or rejected:
        parts = (
            [f"{skipped:,} turns of clients were skipped"] if skipped > 1 else ["a client's turn was skipped"] * skipped
        )
        parts += [f"{rejected:,} frames were rejected"] if rejected > 1 else ["a frame was rejected"] * rejected
        found.append(f"{' and '.join(parts)} in {len(reports):,} round{'s' * (len(reports) > 1)}")
    if reports and not any(r.clients for r in reports):
        noise = reports[-1].epsilon_kind == "central"
        end = "moved by noise alone" if noise else "is as it was before the run"
        found.append(f"no client counted in any round; the model {end}")
    return found


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
