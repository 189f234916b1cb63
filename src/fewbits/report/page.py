"""The frame of every page, and its parts: one HTML file with all pictures in it, for a browser without a network."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from fewbits.json_text import json_text
from fewbits.report.text import megabytes

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #24292f; --soft: #59636e; --line: #e4e7eb; --bar: #0072b2;
  --blue: #0072b2 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16191e; --ink: #d7dce2; --soft: #98a2ad; --line: #2c323a; --bar: #56b4e9;
  --blue: #6ca8ff } }
body { background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; max-width: 54rem;
  margin: 3rem auto; padding: 0 1.25rem; overflow-wrap: break-word }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem } h2 { font-size: 1.15rem; margin: 2.6rem 0 .6rem }
h3 { font-size: 1rem; margin: 1.8rem 0 .5rem }
p { max-width: 44rem } .soft { color: var(--soft) } img { max-width: 100%; height: auto; display: block }
.wide { overflow-x: auto; background: linear-gradient(to left, var(--paper) 1rem, transparent 2rem) 100% / 3rem 100%
  no-repeat local, linear-gradient(to left, var(--line), transparent) 100% / 1rem 100% no-repeat scroll }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .4rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap }
th { font-weight: 600; color: var(--soft); font-size: .88rem }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
td:first-child { font-weight: 600 }
.prose th, .prose td { text-align: left; vertical-align: top } .prose td:last-child { white-space: normal }
.stages td:nth-child(2), .stages th:nth-child(2) { text-align: left }
.stages td:first-child, .sortable td:first-child { white-space: normal }
.bar { width: 38%; min-width: 8rem }
.bar div { background: var(--bar); height: .65rem; border-radius: 2px; min-width: 1px }
pre { background: color-mix(in srgb, var(--ink) 6%, transparent); padding: .9rem 1.1rem; border-radius: 6px;
  white-space: pre-wrap; font: .86rem/1.5 ui-monospace, monospace }
.chart { margin: 1.4rem 0 .6rem } .area { position: relative } .chart svg { display: block; touch-action: pan-y }
.chart text { fill: var(--soft); font-size: 12px } .chart .name { fill: var(--ink) } .grid { stroke: var(--line) }
.controls, .legend { display: flex; flex-wrap: wrap; gap: .4rem .6rem; align-items: center; margin-bottom: .5rem }
button, select { font: inherit; font-size: .85rem; color: inherit; background: none; border: 1px solid var(--line);
  border-radius: 5px; padding: .12rem .5rem; cursor: pointer } select option { background: var(--paper) }
.controls label, .controls span { font-size: .85rem } .controls button { margin-left: auto }
.legend button { max-width: 100%; overflow-wrap: anywhere; text-align: left; display: flex; align-items: baseline }
.legend [aria-pressed=false] { opacity: .4; text-decoration: line-through }
.dot { flex: none; width: .65rem; height: .65rem; border-radius: 50%; margin-right: .4rem }
.tip { position: absolute; pointer-events: none; background: var(--paper); border: 1px solid var(--soft);
  font-size: .8rem; border-radius: 5px; padding: .3rem .55rem; max-width: 19rem; line-height: 1.4 }
.broad { width: max-content; min-width: 100%; max-width: calc(100vw - 4rem); position: relative; left: 50%;
  transform: translateX(-50%) } .broad th { white-space: normal }
.sortable th { cursor: pointer } .sortable th[aria-sort=ascending]::after { content: " \\25b4" }
.sortable th[aria-sort=descending]::after { content: " \\25be" }
@media (max-width: 40rem) { body { margin: 1.5rem auto; padding: 0 .8rem } .bar { min-width: 3rem }
  table { font-size: .7rem } th, td { padding: .4rem .1rem .4rem .2rem } th { font-size: .66rem; white-space: normal }
  .broad { position: static; width: auto; max-width: none; transform: none } .broad table { font-size: .85rem }
  .broad table, .broad thead, .broad tbody { display: block } .broad thead tr { display: flex; flex-wrap: wrap }
  .broad tbody tr { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.3rem, 1fr)) }
  .broad tr { border-bottom: 1px solid var(--line) } .broad td:first-child { grid-column: 1 / -1 }
  .broad th, .broad td { border: 0; text-align: left; padding: .2rem .2rem .2rem 0; white-space: normal }
  .broad table:not(.sortable) thead { display: none } .broad th { padding-right: .8rem; font-size: .75rem }
  .broad td:not(:first-child)::before { content: attr(data-name); display: block; color: var(--soft);
  font-size: .7rem } }
"""
BROAD = 7  # columns from which on a table may be wider than the text, and its rows are cards on a narrow screen


Grid = Sequence[Sequence[str]]  # the first row is the heading, the first column the row's name


class Picture(NamedTuple):
    """One picture as PNG."""

    light: bytes  # for light screens
    dark: bytes | None  # for dark ones; None: the light one serves
    alt: str  # what it shows


class Section(NamedTuple):
    """A heading and what stands below it."""

    heading: str
    parts: Sequence[str]  # HTML; empty ones are left out


def document(title: str, subtitle: str, picture: str, sections: Sequence[Section], script: str = "") -> str:
    """A whole page; `picture`: HTML, or "" when there is none; `script`: JavaScript that runs at its end."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    parts = [f"<h1>{_breakable(title)}</h1>", f'<p class="soft">{escape(subtitle)}</p>', picture]
    for section in sections:
        parts += [f"<h2>{_breakable(section.heading)}</h2>", *section.parts]
    parts.append(f"<script>\n{script}</script>" if script else "")
    body = "\n".join(part for part in parts if part)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'
    )


def image(picture: Picture, caption: str = "") -> str:
    """The picture, light or dark as the screen is."""
    width, height = (int.from_bytes(picture.light[at : at + 4], "big") for at in (16, 20))  # of a PNG's first chunk
    below = f'<p class="soft">{escape(caption)}</p>' if caption else ""
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{_data(picture.dark)}">' if picture.dark else ""
    return (
        f'<picture>{source}<img src="{_data(picture.light)}" width="{width}" height="{height}" '
        f'alt="{escape(picture.alt)}"></picture>{below}'
    )


def _data(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def table(grid: Grid, kind: str = "") -> str:
    """A table; `kind`: its class."""
    heading = grid[0]
    rows = [
        [_breakable(row[0]), *(_named(name, text) for name, text in zip(heading[1:], row[1:], strict=True))]
        for row in grid[1:]
    ]
    return _table(heading, rows, kind, "wide broad" if len(heading) >= BROAD else "wide")


def _named(name: str, text: str) -> str:
    """A cell that knows its column, for screens on which no heading stands above it."""
    return f'<td data-name="{escape(name)}">{escape(text)}</td>'


def _breakable(name: str) -> str:
    """A row's name as HTML, which may end a line before its options and between them."""
    return escape(name).replace("@", "<wbr>@").replace(",", ",<wbr>").replace("+", "+<wbr>")


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]], kind: str, around: str = "wide") -> str:
    """The rows are HTML; a cell that begins with a tag td is taken as it is."""
    head = "".join(f"<th>{escape(text)}</th>" for text in heading)
    body = "".join(
        "<tr>" + "".join(c if c.startswith("<td") else f"<td>{c}</td>" for c in row) + "</tr>\n" for row in rows
    )
    name = f' class="{kind}"' if kind else ""
    return f'<div class="{around}"><table{name}><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def code(text: str) -> str:
    """Text as it is."""
    return f"<pre>{escape(text)}</pre>"


def configuration(config: Mapping[str, object]) -> Section:
    """The last section of every page."""
    return Section("Configuration", [code(json_text(config, indent=2, ascii=False))])


UP = """
<p class="soft">TopK: which entries. Quantize: scales. Rans, Fixed, Golomb: values. recycled, rho: the scalars of LBGM.
header: what frames add. fill: unused bits of the last byte.</p>
"""


def stages(runs: Sequence[tuple[str, Mapping[str, int]]], note: str = UP) -> str:
    """The bits of each stage as a table with bars; `runs`: method, and bits by stage; the mean of a method's runs."""
    methods: dict[str, Counter[str]] = {}
    seeds = Counter(method for method, _ in runs)
    for method, bits in runs:
        methods.setdefault(method, Counter()).update(bits)
    rows: list[list[str]] = []
    for method, bits in methods.items():
        whole = max(1, bits.total())
        for i, (stage, count) in enumerate((+bits).most_common()):
            share = count / whole
            bar = f'<td class="bar"><div style="width:{100 * share:.1f}%"></div></td>'
            rows.append(
                [
                    _breakable(method) if i == 0 else "",
                    escape(stage),
                    megabytes(count / 8 / seeds[method]),
                    f"{share:.1%}",
                    bar,
                ]
            )
    return note + _table(["method", "stage", "MB", "share", ""], rows, "stages")
