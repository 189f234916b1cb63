"""Count the frames of a round without a server."""

from __future__ import annotations

from fewbits.engines.gossip.trainer import StepReport
from fewbits.links import Entry, Ledger
from fewbits.topology import Network


def count_frames(ledger: Ledger, network: Network, round: int, steps: list[StepReport]) -> None:
    """Count each frame once at its sender, and once at every node that receives it, inactive nodes included."""
    lengths = {step.node: (step.frame_bytes, step.payload_bytes) for step in steps}
    for step in steps:
        ledger.add(Entry(round, step.node, "up", step.frame_bytes, step.payload_bytes, step.stages))
    for i in range(network.n):
        received = [lengths[j] for j in network.neighbours(i) if j in lengths]
        frame_bytes, payload_bytes = (sum(sizes) for sizes in zip(*received, strict=True)) if received else (0, 0)
        ledger.add(Entry(round, i, "down", frame_bytes, payload_bytes))
