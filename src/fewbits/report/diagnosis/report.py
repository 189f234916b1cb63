"""The report of a diagnosis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from html import escape

from fewbits.analysis.diagnosis import Advice, Diagnosis
from fewbits.report.diagnosis import figure
from fewbits.report.diagnosis.table import dimensions, gradients, intrinsic, suggestions
from fewbits.report.page import Section, code, configuration, table
from fewbits.report.write import Report

FIGURES, PICTURE, PAGE = "diagnose.json", "diagnose.png", "diagnose.html"
DIGITS = 9  # significant, of figures in JSON: more than float32 has

GRADIENTS = """
<p>Each gradient is the sum over the steps of an epoch, or of a part of one: the update of a client that trains so long.
<em>For 95%</em> and <em>99%</em>: the number of principal components with that share of the variance (Azam et al., ICLR
2022). <em>Unit</em>: the same with every gradient scaled to length 1, so that the long gradients of the first epochs do
not outweigh the rest. The mean is not subtracted. <em>Next cos</em>: the median cosine of a gradient with the next.
<em>LBGM</em>: the share of gradients that LBGM would replace by one scalar at that threshold, if they were the updates
of one client.</p>
"""
DIMENSIONS = """
<p>theta = theta0 + A s, with a random matrix A of d columns of length 1; s is trained like the full model (Li et al.,
ICLR 2018). The table has the learning rate with the least training loss of three that were tried. <em>Step</em>: lr
d/D, the mean length of a step along the gradient; a full step in the last row. <em>Isotropy</em>:
(D/d) |A<sup>T</sup> g|<sup>2</sup> / |g|<sup>2</sup>, median over the epochs' gradients g. It is 1 when the subspace
holds as much of g as of any vector.</p>
"""
RULES = """
<p class="soft">These are rules of thumb with stated thresholds. Central training is not a federation: the clients'
data, its amount and the length of local training decide. The command below measures that.</p>
"""


def report(found: Diagnosis, advice: Sequence[Advice], config: Mapping[str, object], command: str) -> Report:
    """The report of a diagnosis; `command` is what to try next.

    Its JSON has neither times nor paths: the same arguments give the same bytes.
    """
    sections = [
        Section("What the figures suggest", [table(suggestions(advice), "prose"), RULES, code(command)]),
        Section("How many directions the gradients use", [table(gradients(found)), GRADIENTS]),
        Section(
            "How many random directions are enough",
            [f"<p>{escape(intrinsic(found))}</p>", table(dimensions(found)), DIMENSIONS],
        ),
        configuration(config),
    ]
    figures = {"config": config, "diagnosis": _rounded(asdict(found)), "advice": [asdict(a) for a in advice]}
    return Report(
        f"{config['model']} on {config['data']}: how few numbers are enough?",
        f"{found.parameters:,} parameters, trained centrally for {found.epochs} epochs of {found.steps} steps",
        sections,
        partial(figure.png, found),
        "Cosines between gradients, components against epochs, and accuracy against dimension",
        figures,
        page_name=PAGE,
        figures_name=FIGURES,
        picture_name=PICTURE,
    )


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
