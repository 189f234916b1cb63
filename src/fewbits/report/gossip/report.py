"""The report of trainings without a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape

from fewbits.report.gossip import figure
from fewbits.report.gossip.record import GossipRecord
from fewbits.report.gossip.table import legend, rows
from fewbits.report.page import Section, configuration, stages, table
from fewbits.report.text import NONE, megabytes
from fewbits.report.training import faults, left_out
from fewbits.report.write import Report
from fewbits.topology import Topology

MEASURED = """
<p>Every byte count is the length of frames that were encoded, sent and decoded: 16 bytes of header and the payload.
<em>MB sent</em> counts a node's frame once, as on a broadcast medium. <em>MB links</em> counts it once per neighbour,
as on point-to-point links, inactive neighbours included. 1 MB is 10<sup>6</sup> bytes. <em>Accuracy</em> is the mean
over nodes of their models on the test set. <em>Mean model</em> is the accuracy of the average of all models, and
<em>loss</em> its loss without the regulariser. A column with a function's name is the run's metric, a mean over nodes.
<em>Zeros</em>: the share of exact zeros in the nodes' models. <em>Consensus</em>: the consensus distance
|X - mean|<sub>F</sub>. <em>Over entropy</em>: the measured bits of the levels over the entropy of each frame's
levels.</p>
"""


def report(
    title: str,
    records: Sequence[GossipRecord],
    config: Mapping[str, object],
    graph: Topology,
    target: float | None = None,
    subtitle: str = "",
) -> Report:
    """The report of these runs; `graph`: of a round in which all nodes are active, `target`: an accuracy.

    `subtitle`: the line below the title; "": made from the configuration.
    """
    seeds = len({record.seed for record in records})
    many = f", means over {seeds} seeds" if seeds > 1 else ""
    found = rows(records, target)
    sections = [
        Section(
            f"Bytes and accuracy{many}",
            [
                table([list(found[0]), *(list(row.values()) for row in found)]),
                *(f"<p>{escape(line)}</p>" for line in legend(records)),
                faults([(record.method, record.seed, record.notes) for record in records]),
            ],
        ),
        Section("Bits of the levels", [_levels(records)]),
        Section(f"Bytes by stage{many}", [stages([(record.method, record.stages) for record in records])]),
        Section("What is measured", [MEASURED]),
        configuration(config),
    ]
    return Report(
        title,
        subtitle or _subtitle(config, graph),
        sections,
        partial(figure.png, records, graph),
        "Accuracy against bytes, consensus distance, and the graph coloured by bytes per node",
        [record.summary(target) for record in records],
        picture_name="gossip.png",
    )


def _subtitle(config: Mapping[str, object], graph: Topology) -> str:
    return (
        f"{config.get('model')} on {config.get('data')} ({config.get('split')}), {graph.n} nodes, "
        f"{config.get('topology')} with {len(graph.edges)} edges, spectral gap {graph.gap:.3g} with all nodes active, "
        f"{config.get('inactive'):.0%} inactive, {config.get('rounds')} rounds" + left_out(config)
    )


def _levels(records: Sequence[GossipRecord]) -> str:
    """Measured, predicted and entropy bits of all rounds."""
    lines = [["method", "seed", "measured MB", "predicted MB", "entropy MB"]]
    for record in records:
        summary = record.summary()
        totals = [summary[f"{name}_bits_total"] for name in ("coded", "predicted", "entropy")]
        if isinstance(totals[0], float):
            texts = [megabytes(total / 8) if isinstance(total, float) else NONE for total in totals]
            lines.append([record.method, str(record.seed), *texts])
    return table(lines) if len(lines) > 1 else '<p class="soft">No method sends levels.</p>'
