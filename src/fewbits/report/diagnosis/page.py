"""The page: one HTML file with everything in it, for a browser without a network."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape

from fewbits.analysis.diagnosis import Advice, Diagnosis
from fewbits.report.diagnosis.table import Grid, dimensions, gradients, intrinsic, suggestions
from fewbits.report.page import document

OWN_STYLE = """
.prose th, .prose td { text-align: left; vertical-align: top } .prose td:last-child { white-space: normal }
"""

GRADIENTS = """
<p>Each gradient is the sum over the steps of an epoch, or of a part of one: what a client that trained so long would
send. <em>For 95%</em> and <em>99%</em>: how many principal components hold that share of their variance (Azam et al.,
ICLR 2022); <em>unit</em>: the same with every gradient scaled to length 1, so that the long ones of the beginning do
not outweigh the rest. The mean is not taken off. <em>Next cos</em>: the median cosine of a gradient with the next.
<em>LBGM</em>: the share of them that its rule would replace by one scalar, at that threshold, were they one client's
updates in turn.</p>
"""

DIMENSIONS = """
<p>theta = theta0 + A s, with A a random matrix of d columns of length 1, trained like the full model (Li et al., ICLR
2018). Three learning rates are tried for s, and the one with the least training loss is shown. <em>Step</em>:
lr d/D, how long a step is along the gradient, on average; a full one in the last row. <em>Isotropy</em>:
(D/d) |A<sup>T</sup> g|<sup>2</sup> / |g|<sup>2</sup>, 1 if the subspace holds as much of the epochs' gradients as of
any vector (their median).</p>
"""

RULES = """
<p class="soft">Rules of thumb, not theorems: their thresholds are stated, and central training is not a federation. The
clients' own data, how much of it each has, and how long they train decide; the command below measures that.</p>
"""


def html(
    found: Diagnosis,
    advice: Sequence[Advice],
    config: Mapping[str, object],
    command: str,
    pictures: tuple[bytes, bytes] | None,
) -> str:
    """The whole page; `pictures` are the PNG for light and for dark screens, `command` what to try next."""
    title = f"{config['model']} on {config['data']}: how few numbers would do?"
    subject = f"{found.parameters:,} parameters, trained centrally for {found.epochs} epochs of {found.steps} steps"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(subject)}</p>',
        "<h2>What the figures suggest</h2>",
        _table(suggestions(advice), "prose"),
        RULES,
        f"<pre>{escape(command)}</pre>",
        _picture(pictures),
        "<h2>How many directions the gradients use</h2>",
        _table(gradients(found)),
        GRADIENTS,
        "<h2>How many random directions are enough</h2>",
        f"<p>{escape(intrinsic(found))}</p>",
        _table(dimensions(found)),
        DIMENSIONS,
        "<h2>Configuration</h2>",
        f"<pre>{escape(json.dumps(config, indent=2, ensure_ascii=False))}</pre>",
    ]
    return document(title, parts, OWN_STYLE)


def _picture(pictures: tuple[bytes, bytes] | None) -> str:
    if pictures is None:
        return ""
    light, dark = ("data:image/png;base64," + base64.b64encode(picture).decode() for picture in pictures)
    alt = "Cosines between gradients, components against epochs, and accuracy against dimension"
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" width="1200" height="1110" alt="{alt}"></picture>'
    )


def _table(grid: Grid, kind: str = "") -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in grid[0])
    rows = ("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>\n" for row in grid[1:])
    name = f' class="{kind}"' if kind else ""
    return (
        f'<div class="wide"><table{name}><thead><tr>{head}</tr></thead><tbody>\n{"".join(rows)}</tbody></table></div>'
    )
