"""The page: one HTML file without external parts."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape

from fewbits.report.gossip.record import GossipRecord
from fewbits.report.page import document
from fewbits.report.table import megabytes
from fewbits.topology import Topology

MEASURED = """
<p>Every byte figure is the length of frames that were really encoded, sent and decoded: 16 bytes of header and the
payload. <em>MB sent</em> counts a node's frame once (as a broadcast medium carries it), <em>MB links</em> once per
neighbour (as point-to-point links carry it, also to inactive neighbours). 1 MB is 10<sup>6</sup> bytes.
<em>Accuracy</em> is the mean over the nodes' own models on the test set, <em>mean model</em> that of the
average of all models, <em>loss</em> the mean model's, without the regulariser. <em>Zeros</em> is the share of exact
zeros in the nodes' models, <em>consensus</em> the consensus distance |X - mean|<sub>F</sub>, <em>over entropy</em> the
measured bits of the levels against the entropy of each frame's own levels.</p>
"""


def html(
    title: str,
    records: Sequence[GossipRecord],
    found: Sequence[Mapping[str, str]],
    config: Mapping[str, object],
    graph: Topology,
    pictures: tuple[bytes, bytes] | None,
) -> str:
    """The whole page; `pictures` are the PNG for light and for dark screens."""
    seeds = len({record.seed for record in records})
    many = f", means over {seeds} seeds" if seeds > 1 else ""
    data_info = (
        f"{config.get('model')} on {config.get('data')} ({config.get('split')}), {graph.n} nodes, "
        f"{config.get('topology')} with {len(graph.edges)} edges, spectral gap {graph.gap:.3g} with all nodes active, "
        f"{config.get('inactive'):.0%} inactive, {config.get('rounds')} rounds"
    )
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(data_info)}</p>',
        _picture(pictures),
        f"<h2>Bytes and accuracy{many}</h2>",
        _table([list(found[0]), *(list(row.values()) for row in found)]),
        "<h2>Bits of the levels</h2>",
        _levels(records),
        "<h2>Where the bits go</h2>",
        _stages(records),
        "<h2>What is measured</h2>",
        MEASURED,
        "<h2>Configuration</h2>",
        f"<pre>{escape(json.dumps(config, indent=2, ensure_ascii=False))}</pre>",
    ]
    return document(title, parts)


def _picture(pictures: tuple[bytes, bytes] | None) -> str:
    if pictures is None:
        return ""
    light, dark = ("data:image/png;base64," + base64.b64encode(picture).decode() for picture in pictures)
    description = "Accuracy against bytes, consensus distance, and the graph coloured by bytes per node"
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" width="1200" height="1110" alt="{description}"></picture>'
    )


def _table(lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in lines[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in line) + "</tr>\n" for line in lines[1:])
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _levels(records: Sequence[GossipRecord]) -> str:
    """Measured, predicted and entropy bits of all rounds."""
    lines = [["method", "seed", "measured MB", "predicted MB", "entropy MB"]]
    for record in records:
        summary = record.summary()
        totals = [summary[f"{name}_bits_total"] for name in ("coded", "predicted", "entropy")]
        if isinstance(totals[0], float):
            lines.append(
                [record.method, str(record.seed), *(megabytes(t / 8) if isinstance(t, float) else "–" for t in totals)]
            )
    return _table(lines) if len(lines) > 1 else '<p class="soft">No method sends levels.</p>'


def _stages(records: Sequence[GossipRecord]) -> str:
    methods: dict[str, dict[str, int]] = {}
    for record in records:
        stages = methods.setdefault(record.method, {})
        for stage, bits in record.stages.items():
            stages[stage] = stages.get(stage, 0) + bits
    lines = [["method", "stage", "MB", "share"]]
    for method, stages in methods.items():
        whole = max(1, sum(stages.values()))
        for i, (stage, bits) in enumerate(sorted(stages.items(), key=lambda item: -item[1])):
            lines.append([method if i == 0 else "", stage, megabytes(bits / 8), f"{bits / whole:.1%}"])
    return _table(lines)
