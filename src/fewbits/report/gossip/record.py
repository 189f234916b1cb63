"""GossipRecord: the figures of one run without a server, read from its folder; all bytes are the ledger's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fewbits.engines.gossip import GossipReport
from fewbits.links import ledger
from fewbits.report.round_log import LEDGER, read_reports


@dataclass(frozen=True)
class GossipRecord:
    """One run."""

    method: str
    seed: int
    reports: tuple[GossipReport, ...]  # one per round, in order
    node_bytes: tuple[int, ...]  # frame bytes that each node sent; each frame counts once
    stages: dict[str, int]  # bits of all frames, by stage; "header" among them
    times_fewer: float | None = None  # frame bytes of the dsgd run of the same seed / ours; None: there is no such run

    @staticmethod
    def read(folder: Path, method: str, seed: int) -> GossipRecord:
        """From metrics.jsonl and ledger.jsonl; LocalError when a file is missing, or is not a run's."""
        reports = read_reports(folder, GossipReport)
        sent: dict[int, int] = {}
        stages = {"header": 0}
        for entry in ledger.read(folder / LEDGER):
            if entry.direction == "up":
                sent[entry.client] = sent.get(entry.client, 0) + entry.frame_bytes
                stages["header"] += 8 * (entry.frame_bytes - entry.payload_bytes)
                for stage, bits in entry.stages.items():
                    stages[stage] = stages.get(stage, 0) + bits
            else:
                sent.setdefault(entry.client, 0)
        return GossipRecord(method, seed, reports, tuple(sent[i] for i in sorted(sent)), stages)

    @property
    def last(self) -> GossipReport:
        """The report of the last round; its byte figures are the whole run's."""
        return self.reports[-1]

    @property
    def curve(self) -> list[tuple[int, int, float]]:
        """(round, frame bytes so far, mean accuracy of the nodes) for every evaluated round."""
        return [(r.round, r.frame_bytes, r.accuracy) for r in self.reports if r.accuracy is not None]

    @property
    def skipped(self) -> int:
        """How often a node took no step."""
        return sum(r.skipped for r in self.reports)

    @property
    def diverged(self) -> bool:
        """Whether the newest figures were not finite."""
        known = (r.diverged for r in reversed(self.reports) if r.diverged or r.loss is not None or not r.skipped)
        return next(known, False)

    @property
    def notes(self) -> list[str]:
        """Sentences about faults that the run survived, one of each kind."""
        return [note for report in self.reports for note in report.notes]

    def bytes_to(self, accuracy: float) -> int | None:
        """Frame bytes until that accuracy was first measured; None: it was not reached."""
        return next((sent for _, sent, found in self.curve if found >= accuracy), None)

    def summary(self, target: float | None = None) -> dict[str, object]:
        """One object of summary.json."""
        last = self.last
        left_out = ("accuracies", "coded_bits", "entropy_bits", "predicted_bits", "notes")
        found: dict[str, object] = {"method": self.method, "seed": self.seed}
        found |= {name: value for name, value in vars(last).items() if name not in left_out}
        for name in ("coded_bits", "entropy_bits", "predicted_bits"):
            values = [value for r in self.reports if (value := getattr(r, name)) is not None]
            found[f"{name}_total"] = sum(values) if values else None
        found |= {"skipped": self.skipped, "diverged": self.diverged}
        found |= {"times_fewer": self.times_fewer, "bytes_per_node": list(self.node_bytes)}
        if target is not None:
            found |= {"target_accuracy": target, "bytes_to_target": self.bytes_to(target)}
        return found


def against_dsgd(records: Sequence[GossipRecord]) -> list[GossipRecord]:
    """Set `times_fewer`: the bytes of the dsgd run of the same seed and length, over the record's bytes."""
    dense = {(r.seed, r.last.round): r.last.frame_bytes for r in records if r.method == "dsgd"}
    found = []
    for record in records:
        reference = dense.get((record.seed, record.last.round))
        times = None if reference is None or not record.last.frame_bytes else reference / record.last.frame_bytes
        found.append(replace(record, times_fewer=times))
    return found
