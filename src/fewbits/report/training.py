"""The report of trainings with a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape

from fewbits.report import figure
from fewbits.report.chart import chart
from fewbits.report.page import Section, configuration, stages, table
from fewbits.report.record import Record
from fewbits.report.table import Row, cells, columns, legend, metric_columns, privacy_lines, rows
from fewbits.report.write import Report

PERSONAL = """
<p>Personal data: every client's model on the client's held-out examples. The columns are the mean accuracy over
clients, the spread over clients, and the mean of the worst tenth. For methods with personal models
(pFedPara, FedPer, local), this is also the accuracy of the table and of the picture.</p>
"""
BY_CLIENT = """
<p class="soft">Each client's model on the client's held-out examples: its accuracy, or the metric where an accuracy
means nothing. A tenth of the clients has the value at 10% or less.</p>
"""
SUBSPACE = """
<p>Isotropy: (D/d)|A<sup>T</sup>u|<sup>2</sup>/|u|<sup>2</sup> of a client's update u in its subspace, mean over clients
and rounds. It is 1 when the subspace holds as much of u as of a random vector, and more when it holds more. Step: how
far a local step of the learning rate moves the model along an isotropic gradient. It is the rate times d/D for
orthonormal columns, and the rate itself for unbiased ones.</p>
"""
PRIVATE = """
<p>Epsilon: an upper bound of the privacy loss of all rounds, for the neighbours and the delta beside it.
<em>Central</em>: against those who see the models, but neither messages nor who was drawn. <em>Local</em>: against the
server, too, which sees messages, or sums under masks. docs/secure-aggregation.md states the assumptions. The keys of a
simulation are known, so this run protects nobody. It shows the effect of the noise on accuracy.</p>
"""
MEASURED = """
<p>Every byte count is the length of frames that were encoded, sent and decoded: 16 bytes of header and the payload.
<em>MB up</em>: what clients sent. <em>MB down</em>: what clients received, with all frames for rounds that they missed.
Bytes of a transport (HTTP, TLS) are not included. 1 MB is 10<sup>6</sup> bytes. <em>Accuracy</em>: the clients' model
on the test set after the last round.</p>
"""
DOWN = """
<p class="soft">first contact: what brings a client its first model. later rounds: updates and differences after it.
header: what frames add, and lengths and acknowledgements.</p>
"""
FIRST = ("method", "accuracy", "× fewer", "MB total")  # columns that a narrow screen shows
MOST_NOTES = 30  # of faults, on the page


CHOSEN = """
<p><em>{}</em>: the run's metric, of the same model and on the same examples as the accuracy, after the last round.</p>
"""
AT = """
<p><em>at</em> a number of bytes: the accuracy of the last evaluated round within them, both directions together. A
dash: the run ended before, or had no evaluated round within.</p>
"""
WITHOUT = """
<p>There is no accuracy: the outputs and targets are no classes, or the run had no test set.</p>
"""


def report(
    title: str,
    records: Sequence[Record],
    config: Mapping[str, object],
    summary: object,
    target: float | None = None,
    subtitle: str = "",
    labels: Mapping[str, str] = {},
    at: Sequence[int] = (),
) -> Report:
    """The report of these runs.

    Args:
        title: of the page.
        records: the runs; several seeds of a method become one row.
        config: what the runs have in common.
        summary: the content of summary.json.
        target: an accuracy; the table has the bytes that it took.
        subtitle: the line below the title; "": made from the configuration.
        labels: the methods behind labels, as text.
        at: byte counts; the table has the accuracy at them.
    """
    found = rows(records, target, at)
    return Report(
        title,
        subtitle or _subtitle(config),
        sections(records, found, config, labels),
        partial(figure.png, records),
        f"{figure.quantity(records).capitalize()} against bytes, a line per method",
        summary,
        chart=partial(chart, records, caption(found)),
    )


def caption(found: Sequence[Row]) -> str:
    """What stands below a chart of these rows."""
    seeds = max((row.seeds for row in found), default=0)
    band = " Lines are means over seeds, bands reach from the worst seed to the best." if seeds > 1 else ""
    return f"Further left means fewer bytes.{band}"


def sections(
    records: Sequence[Record], found: Sequence[Row], config: Mapping[str, object], labels: Mapping[str, str] = {}
) -> list[Section]:
    """The tables, what their columns mean, and what was run."""
    return [*tables(records, found, labels), Section("What is measured", [MEASURED]), configuration(config)]


def tables(records: Sequence[Record], found: Sequence[Row], labels: Mapping[str, str] = {}) -> list[Section]:
    """The tables of one task, and what their columns mean."""
    seeds = max((row.seeds for row in found), default=0)
    many = f", mean and standard deviation over {seeds} seeds" if seeds > 1 else ""
    mean = f", mean over {seeds} seeds" if seeds > 1 else ""
    names = sorted(columns(found), key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    named = "; ".join(f"{label}: {text}" for label, text in labels.items())
    notes = [
        *(f"<p>{escape(line)}</p>" for line in legend(found)),
        faults([(record.method, record.seed, record.notes) for record in records]),
        f'<p class="soft">{escape(named)}</p>' if named else "",
        *(CHOSEN.format(escape(name)) for name in metric_columns(found)),
        AT if any(row.at for row in found) else "",
        WITHOUT if all(row.accuracy is None for row in found) else "",
        PERSONAL if any(row.personal is not None for row in found) else "",
        "".join(f"<p>{escape(line)}</p>" for line in privacy_lines(found)),
        PRIVATE if any(row.privacy is not None for row in found) else "",
        SUBSPACE if any(row.isotropy is not None for row in found) else "",
    ]
    return [
        Section(
            f"Bytes and accuracy{many}", [table([names, *(cells(row, names) for row in found)], "sortable"), *notes]
        ),
        *_by_client(found, mean),
        Section(
            f"Bytes sent by clients, by stage{mean}", [stages([(record.method, record.stages) for record in records])]
        ),
        Section(
            f"Bytes received by clients{mean}", [stages([(record.method, record.down) for record in records], DOWN)]
        ),
    ]


def _by_client(found: Sequence[Row], mean: str) -> list[Section]:
    """How clients differ, where each was evaluated."""
    shown = [
        [row.method, *(f"{x:.4g}" if row.personal is None else f"{x:.1%}" for x in row.by_client)]
        for row in found
        if row.by_client is not None
    ]
    heading = ["method", "least", "10%", "median", "90%"]
    return [Section(f"Clients{mean}", [BY_CLIENT, table([heading, *shown])])] * bool(shown)


def faults(runs: Sequence[tuple[str, int, Sequence[str]]]) -> str:
    """What runs (method, seed, notes) say about faults that they survived; "" when there was none."""
    lines = [f"{method}, seed {seed}: {note}" for method, seed, notes in runs for note in notes]
    more = [f"... and {len(lines) - MOST_NOTES} more in metrics.jsonl"] * (len(lines) > MOST_NOTES)
    items = "".join(f"<li>{escape(line)}</li>" for line in lines[:MOST_NOTES] + more)
    return (
        f'<p>Faults that the runs survived, the first of each kind:</p>\n<ul class="soft">{items}</ul>' if items else ""
    )


def _subtitle(config: Mapping[str, object]) -> str:
    sampled = config.get("per_round") or "all"
    return (
        f"{config.get('model')} on {config.get('data')}, {config.get('clients')} clients{_split(config)}, "
        f"{sampled} of them {_length(config)}" + left_out(config)
    )


def _split(config: Mapping[str, object]) -> str:
    """How the data are split; nothing where the user's function did it."""
    return f" ({config['split']})" if config.get("split") else ""


def _length(config: Mapping[str, object]) -> str:
    rounds = config.get("rounds")
    each = "in each round" if rounds is None else f"in each of {rounds} rounds"
    return f"{each}, up to {config['budget']}" if config.get("budget") else each


def left_out(config: Mapping[str, object]) -> str:
    """What is to be known of the runs, such as what the split leaves out, to stand behind the line below a title.

    >>> left_out({"notes": ["split natural leaves out 2 of 6 examples"]}), left_out({})
    ('; split natural leaves out 2 of 6 examples', '')
    """
    notes = config.get("notes")
    return "".join(f"; {note}" for note in notes) if isinstance(notes, list) else ""
