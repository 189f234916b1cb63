"""Record: the figures of one run, read from its folder; all bytes are the ledger's."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fewbits.engines.simulation import RoundReport
from fewbits.links import ledger
from fewbits.privacy.account import PrivacyLoss
from fewbits.report.round_log import LEDGER, read_reports

PERSONAL = ("personal_accuracy", "personal_spread", "personal_worst")  # as summary.json has them
BY_CLIENT = ("personal_least", "personal_tenth", "personal_median", "personal_ninetieth")
PRIVACY = ("epsilon", "epsilon_kind", "neighbours", "delta", "epsilon_local")  # as summary.json has them


@dataclass(frozen=True)
class Record:
    """One run."""

    method: str  # its label, or its name
    seed: int  # of the run
    reports: tuple[RoundReport, ...]  # one per round, in order
    stages: dict[str, int]  # bits sent up, by stage; "header" among them
    down: dict[str, int]  # bits received: "header", "first contact", "later rounds"
    times_fewer: float | None = None  # bytes of the dense run of the same seed over ours; None: there is no such run
    line_seconds: float | None = None  # on lines of a given speed; None: none was given

    @staticmethod
    def read(folder: Path, method: str, seed: int) -> Record:
        """From metrics.jsonl and ledger.jsonl; LocalError when a file is missing, or is not a run's."""
        reports = read_reports(folder, RoundReport)
        return Record(method, seed, reports, *_traffic(folder / LEDGER))

    @property
    def last(self) -> RoundReport:
        """The report of the last round; its byte figures are the whole run's."""
        return self.reports[-1]

    @property
    def curve(self) -> list[tuple[int, int, float]]:
        """(round, bytes up and down so far, accuracy) for every evaluated round."""
        return [(r.round, total(r), r.accuracy) for r in self.reports if r.accuracy is not None]

    @property
    def accuracy(self) -> float | None:
        """The last accuracy measured."""
        return self.curve[-1][2] if self.curve else None

    @property
    def best_accuracy(self) -> float | None:
        """The largest accuracy measured."""
        return max((accuracy for _, _, accuracy in self.curve), default=None)

    @property
    def metric(self) -> float | None:
        """The last value of the user's metric; None: it was not measured."""
        return next((r.metric for r in reversed(self.reports) if r.metric is not None), None)

    @property
    def metric_name(self) -> str | None:
        """The name of the metric's function."""
        return self.last.metric_name

    @property
    def loss(self) -> float | None:
        """The last loss on the test set; None: there was no evaluation."""
        return next((r.loss for r in reversed(self.reports) if r.loss is not None), None)

    @property
    def personal(self) -> tuple[float, float, float] | None:
        """Clients on their held-out examples: mean accuracy, standard deviation, mean of the worst tenth."""
        for r in reversed(self.reports):
            mean, spread, worst = r.personal_accuracy, r.personal_spread, r.personal_worst
            if mean is not None and spread is not None and worst is not None:
                return mean, spread, worst
        return None

    @property
    def by_client(self) -> tuple[float, float, float, float] | None:
        """Least, 10%, median and 90% of the clients' accuracies, or else metrics, on their held-out examples."""
        for r in reversed(self.reports):
            least, tenth, median, ninetieth = (getattr(r, name) for name in BY_CLIENT)
            if median is not None:
                return least, tenth, median, ninetieth
        return None

    @property
    def recycled(self) -> float | None:
        """Share of all updates that were recycled; None when the method does not recycle."""
        counted = [(r.recycled, r.clients + r.rejected + r.unsent) for r in self.reports if r.recycled is not None]
        sent = sum(n for _, n in counted)
        return sum(share * n for share, n in counted) / sent if sent else None

    @property
    def isotropy(self) -> float | None:
        """Mean isotropy of the rounds; None without a subspace."""
        return _mean([r.isotropy for r in self.reports if r.isotropy is not None])

    @property
    def effective_step(self) -> float | None:
        """Mean effective step of the rounds; None without a subspace."""
        return _mean([r.effective_step for r in self.reports if r.effective_step is not None])

    @property
    def privacy(self) -> PrivacyLoss | None:
        """Privacy loss of the whole run, with its meaning; None without dp."""
        last = self.last
        if last.epsilon is None or not last.epsilon_kind or not last.neighbours:
            return None
        assert last.delta is not None and last.epsilon_local is not None
        return PrivacyLoss(last.epsilon, last.epsilon_kind, last.neighbours, last.delta, last.epsilon_local)

    @property
    def left_out(self) -> tuple[int, int, int]:
        """Turns of clients in the whole run: skipped ones, those with a rejected frame, and all."""
        skipped, rejected = sum(r.skipped for r in self.reports), sum(r.rejected for r in self.reports)
        return skipped, rejected, sum(r.clients for r in self.reports) + skipped + rejected

    @property
    def diverged(self) -> int | None:
        """The last round whose loss, or every client's update, was not finite; None: there is none, or it recovered."""
        measured = any(r.loss is not None for r in self.reports)
        for r in reversed(self.reports):
            if r.diverged:
                return r.round
            if r.loss is not None or (r.clients and not measured):
                return None
        return None

    @property
    def notes(self) -> list[str]:
        """Sentences about faults that the run survived, one of each kind."""
        return [note for report in self.reports for note in report.notes]

    def bytes_to(self, accuracy: float) -> int | None:
        """Bytes in both directions until that accuracy was first measured; None: it was not reached."""
        return next((sent for _, sent, found in self.curve if found >= accuracy), None)

    def accuracy_at(self, count: int) -> float | None:
        """The accuracy of the last evaluated round within so many bytes, both directions together.

        None: there was no such round; or the run ended before, with room for one more round of its mean cost.
        """
        if total(self.last) + max(total(self.last) / self.last.round, 0.01 * count) < count:
            return None
        return next((accuracy for _, sent, accuracy in reversed(self.curve) if sent <= count), None)

    def summary(self, target: float | None = None, at: Sequence[int] = ()) -> dict[str, object]:
        """One object of summary.json."""
        last = self.last
        found: dict[str, object] = {
            "method": self.method,
            "seed": self.seed,
            "rounds": last.round,
            "accuracy": self.accuracy,
            "best_accuracy": self.best_accuracy,
            "up_frame_bytes": last.up_frame_bytes,
            "down_frame_bytes": last.down_frame_bytes,
            "up_payload_bytes": last.up_payload_bytes,
            "down_payload_bytes": last.down_payload_bytes,
            "times_fewer": self.times_fewer,
            "recycled": self.recycled,
            "skipped": sum(r.skipped for r in self.reports),
            "rejected": sum(r.rejected for r in self.reports),
            "diverged": self.diverged is not None,
            "seconds": last.seconds,
        }
        if self.line_seconds is not None:
            found["line_seconds"] = self.line_seconds
        if self.metric_name is not None:
            found |= {"metric_name": self.metric_name, "metric": self.metric}
        if (personal := self.personal) is not None:
            found |= dict(zip(PERSONAL, personal, strict=True))
        if (by_client := self.by_client) is not None:
            found |= dict(zip(BY_CLIENT, by_client, strict=True))
        if self.isotropy is not None:
            found |= {"isotropy": self.isotropy, "effective_step": self.effective_step}
        if self.privacy is not None:
            found |= {name: getattr(last, name) for name in PRIVACY}
        if target is not None:
            found |= {"target_accuracy": target, "bytes_to_target": self.bytes_to(target)}
        if at:
            found["accuracy_at"] = {str(count): self.accuracy_at(count) for count in at}
        return found


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def total(report: RoundReport) -> int:
    """Frame bytes in both directions so far."""
    return report.bytes


def against_dense(records: Sequence[Record]) -> list[Record]:
    """Set `times_fewer`: the bytes of the dense run of the same seed and length, over the record's bytes."""
    dense = {(r.seed, r.last.round): total(r.last) for r in records if r.method == "dense"}
    found = []
    for record in records:
        reference = dense.get((record.seed, record.last.round))
        found.append(replace(record, times_fewer=None if reference is None else reference / total(record.last)))
    return found


def common_bytes(records: Sequence[Record]) -> tuple[int, ...]:
    """The most bytes that all runs spent, for a table of several methods; none where no accuracy would change."""
    if len({record.method for record in records}) < 2:
        return ()
    least = min(total(record.last) for record in records)
    return () if all(record.accuracy_at(least) == record.accuracy for record in records) else (least,)


def _traffic(path: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Bits up by stage, and down by what they are for."""
    header, up = 0, Counter[str]()
    down, met = Counter[str](dict.fromkeys(("first contact", "later rounds", "header"), 0)), set[int]()
    for entry in ledger.read(path):
        frames = 8 * (entry.frame_bytes - entry.payload_bytes)
        if entry.direction == "up":
            header += frames
            up.update(entry.stages)
            up["fill"] += 8 * entry.payload_bytes - sum(entry.stages.values())
        else:
            down["header"] += frames
            down["later rounds" if entry.client in met else "first contact"] += 8 * entry.payload_bytes
            met.add(entry.client)
    return {"header": header} | dict(+up), dict(+down)
