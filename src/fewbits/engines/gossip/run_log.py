"""The logs of a run without a server: metrics, one report a line, and the ledger's entries of a round."""

from __future__ import annotations

import json
from pathlib import Path

from fewbits.engines.common.disk import sync
from fewbits.engines.common.logs import LEDGER, METRICS, cut_log
from fewbits.engines.gossip.report import GossipReport
from fewbits.engines.gossip.trainer import StepReport
from fewbits.links import Entry, Ledger
from fewbits.topology import Network


def write_report(folder: Path, report: GossipReport) -> None:
    """Append one line to the metrics."""
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps(vars(report)) + "\n")


def resume_logs(folder: Path, sizes: dict[str, int] | None) -> list[GossipReport]:
    """Cut the logs to the sizes in a checkpoint, or empty them for None; the reports that remain."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (LEDGER, METRICS):
        cut_log(folder / name, sizes[name] if sizes else 0)
    return [GossipReport(**json.loads(line)) for line in (folder / METRICS).read_text().splitlines()]


def sync_logs(folder: Path, ledger: Ledger) -> dict[str, int]:
    """Bring the logs to disk; their sizes, for a checkpoint."""
    (folder / METRICS).touch()
    sizes = {LEDGER: ledger.flush(), METRICS: (folder / METRICS).stat().st_size}
    for name in (LEDGER, METRICS):
        sync(folder / name)
    return sizes


def count_frames(ledger: Ledger, network: Network, round: int, steps: list[StepReport]) -> None:
    """Count each frame once at its sender, and once at every node that receives it, inactive nodes included."""
    lengths = {step.node: (step.frame_bytes, step.payload_bytes) for step in steps}
    for step in steps:
        ledger.add(Entry(round, step.node, "up", step.frame_bytes, step.payload_bytes, step.stages))
    for i in range(network.n):
        received = [lengths[j] for j in network.neighbours(i) if j in lengths]
        frame_bytes, payload_bytes = (sum(sizes) for sizes in zip(*received, strict=True)) if received else (0, 0)
        ledger.add(Entry(round, i, "down", frame_bytes, payload_bytes))
