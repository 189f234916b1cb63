"""The page: one HTML file with everything in it, for a browser without a network."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape

from fewbits.report.record import Record
from fewbits.report.table import Row, cells, columns, megabytes

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #24292f; --soft: #59636e; --line: #e4e7eb; --bar: #0072b2 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16191e; --ink: #d7dce2; --soft: #98a2ad; --line: #2c323a; --bar: #56b4e9 } }
body { background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; max-width: 54rem;
  margin: 3rem auto; padding: 0 1.25rem }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem } h2 { font-size: 1.15rem; margin: 2.6rem 0 .6rem }
p { max-width: 44rem } .soft { color: var(--soft) } img { max-width: 100%; height: auto; display: block }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .4rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap }
th { font-weight: 600; color: var(--soft); font-size: .88rem }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
td:first-child { font-weight: 600 }
.stages td:nth-child(2), .stages th:nth-child(2) { text-align: left }
.bar { width: 38%; min-width: 8rem }
.bar div { background: var(--bar); height: .65rem; border-radius: 2px; min-width: 1px }
pre { background: color-mix(in srgb, var(--ink) 6%, transparent); padding: .9rem 1.1rem; border-radius: 6px;
  overflow-x: auto; font: .86rem/1.5 ui-monospace, monospace }
"""

OWN = (
    "<p>Own data: the mean accuracy over clients of each one's model on examples of its own that were held out, the "
    "spread over clients, and the mean of the worst tenth. For methods that leave clients models of their own "
    "(pFedPara, FedPer, local), this is their accuracy, in the table and in the picture.</p>"
)
SUBSPACE = (
    "<p>Isotropy: (D/d)|A<sup>T</sup>u|<sup>2</sup>/|u|<sup>2</sup> of what a client's training changed, u, in its "
    "subspace, mean over clients and rounds: 1 when the subspace holds as much of it as of a random vector, more when "
    "it happens to hold more. Step: how far a client's step of the learning rate moves the model along an isotropic "
    "gradient: the rate times d/D for orthonormal columns, the rate itself for unbiased ones.</p>"
)
PRIVATE = (
    "<p>Epsilon: of all rounds together, for the delta of the configuration, by Opacus's accountant, against those "
    "whom the share local or central protects from; docs/secure-aggregation.md says what must hold for it. The keys of "
    "a simulation are known, so nobody is protected by this run: it shows what noise does to accuracy.</p>"
)
STAGES = """
<p class="soft">TopK says which entries, Quantize their scales, Rans or Fixed the values themselves; recycled and rho
are LBGM's scalars; header is what frames add, fill what is left of a last byte.</p>
"""

MEASURED = """
<p>Every figure is the length of frames that were really encoded, sent and decoded, summed by the ledger: 16 bytes of
header and the payload. <em>MB up</em> is what clients sent. <em>MB down</em> is what they received: for each client,
all it took to bring its copy of the model up to date, rounds it had missed included. What a transport adds (HTTP, TLS)
is not in it. 1 MB is 10<sup>6</sup> bytes. <em>Accuracy</em> is that of the model as clients hold it, on held-out
examples, after the last round.</p>
"""


def document(title: str, parts: Sequence[str], style: str = "") -> str:
    """A whole page of these parts, empty ones left out; `style`: rules beside `STYLE`."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = "\n".join(part for part in parts if part)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}{style}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def html(
    title: str,
    records: Sequence[Record],
    found: Sequence[Row],
    config: Mapping[str, object],
    pictures: tuple[bytes, bytes] | None,
) -> str:
    """The whole page; `pictures` are the PNG for light and for dark screens."""
    seeds = max((row.seeds for row in found), default=0)
    many = f", mean and standard deviation over {seeds} seeds" if seeds > 1 else ""
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(_subject(config))}</p>',
        _picture(pictures, seeds),
        f"<h2>Bytes and accuracy{many}</h2>",
        _table(found),
        OWN if any(row.own is not None for row in found) else "",
        PRIVATE if any(row.epsilon is not None for row in found) else "",
        SUBSPACE if any(row.isotropy is not None for row in found) else "",
        "<h2>Where the bits go, clients to server</h2>",
        STAGES,
        _stages(records),
        "<h2>What is measured</h2>",
        MEASURED,
        "<h2>Configuration</h2>",
        f"<pre>{escape(json.dumps(config, indent=2, ensure_ascii=False))}</pre>",
    ]
    return document(title, parts)


def _subject(config: Mapping[str, object]) -> str:
    sampled = config.get("per_round") or "all"
    return (
        f"{config.get('model')} on {config.get('data')}, {config.get('clients')} clients ({config.get('split')}), "
        f"{sampled} of them in each of {config.get('rounds')} rounds"
    )


def _picture(pictures: tuple[bytes, bytes] | None, seeds: int) -> str:
    if pictures is None:
        return ""
    light, dark = ("data:image/png;base64," + base64.b64encode(picture).decode() for picture in pictures)
    band = " Lines are means over seeds, bands reach from the worst to the best." if seeds > 1 else ""
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" width="1200" height="720" alt="Test accuracy against bytes, a line per method"></picture>'
        f'<p class="soft">Further left is cheaper.{band}</p>'
    )


def _table(found: Sequence[Row]) -> str:
    names = columns(found)
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in cells(row, names)) + "</tr>\n" for row in found
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _stages(records: Sequence[Record]) -> str:
    """Per method, the bits of each stage over all its seeds."""
    methods: dict[str, dict[str, int]] = {}
    for record in records:
        own = methods.setdefault(record.method, {})
        for stage, bits in record.stages.items():
            own[stage] = own.get(stage, 0) + bits
    lines = []
    for method, own in methods.items():
        whole = max(1, sum(own.values()))
        for i, (stage, bits) in enumerate(sorted(own.items(), key=lambda item: -item[1])):
            share = bits / whole
            lines.append(
                f"<tr><td>{escape(method) if i == 0 else ''}</td><td>{escape(stage)}</td><td>{megabytes(bits / 8)}</td>"
                f'<td>{share:.1%}</td><td class="bar"><div style="width:{100 * share:.1f}%"></div></td></tr>\n'
            )
    head = "<tr><th>method</th><th>stage</th><th>MB</th><th>share</th><th></th></tr>"
    return (
        f'<div class="wide"><table class="stages"><thead>{head}</thead><tbody>\n{"".join(lines)}</tbody></table></div>'
    )
