"""Write the report of several runs: summary.json, gossip.png and report.html."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from fewbits.errors import LocalError
from fewbits.report import figure as themes
from fewbits.report.gossip import figure, page
from fewbits.report.gossip.record import GossipRecord
from fewbits.report.gossip.table import rows
from fewbits.topology import Topology


def write(
    folder: Path,
    title: str,
    records: Sequence[GossipRecord],
    config: Mapping[str, object],
    graph: Topology,
    target: float | None = None,
) -> list[str]:
    """Write the three files into `folder`; returns a sentence about a picture that could not be drawn."""
    summary = [record.summary(target) for record in records]
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    notes: list[str] = []
    pictures = None
    try:
        pictures = figure.png(records, graph, themes.LIGHT), figure.png(records, graph, themes.DARK)
        (folder / "gossip.png").write_bytes(pictures[0])
    except LocalError as error:
        notes.append(str(error))
    text = page.html(title, records, rows(records, target), config, graph, pictures)
    (folder / "report.html").write_text(text, encoding="utf-8")
    return notes
