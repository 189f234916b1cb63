"""compare: several methods and seeds on the same model and data, in one call."""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from fewbits.checks import check_number, check_seed
from fewbits.engines.common import history
from fewbits.engines.common.any_task import ClientData, held_out, task_over
from fewbits.engines.common.first_batch import check_first_batch
from fewbits.engines.common.initial_model import InitialModel, Model
from fewbits.engines.common.run_files import check_continues
from fewbits.engines.common.run_lock import RunLock
from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Local, Loss
from fewbits.engines.simulation import Federation, RoundReport
from fewbits.engines.simulation.affordable import left_out, too_dear
from fewbits.errors import LocalError
from fewbits.factor.derived import duplicate
from fewbits.files import placed
from fewbits.learn.method import Method
from fewbits.learn.metrics import Metric
from fewbits.methods import named
from fewbits.methods.catalogue import options
from fewbits.methods.text import MethodText, folder_name, read_all, read_labelled
from fewbits.report import Record, Row, drawing, figure, notebook, rows
from fewbits.report.fitted import WIDTH, printed
from fewbits.report.record import against_dense, common_bytes
from fewbits.report.table import cells, columns, legend, terminal
from fewbits.report.training import report
from fewbits.report.write import PAGE, Report, write
from fewbits.rng import Key
from fewbits.sizes import checked_sizes
from fewbits.trackers import Observer, observers, watching
from fewbits.training.arguments import check_call
from fewbits.training.length import lengths
from fewbits.training.subtitle import model_figures, participants, shown_settings, subtitle

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INITIAL = "Every run starts from the weights of the given model; seeds decide sampling, batches and dither."
SEEDED = "Seeds decide the initial weights, sampling, batches and dither; runs of one seed start from the same weights."


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a comparison reached; `print` shows the table of the command line, and so does a notebook.

    Args:
        records: one for each method and seed.
        target: the accuracy whose bytes the table has; None: no such column.
        page: report.html; None without `out`.
        notes: sentences about the start of the runs, and about what could not be made.
        at: byte counts, both directions, at which the table has the accuracy.
    """

    records: list[Record]  # one per method and seed
    target: float | None  # accuracy whose bytes the table has
    page: Path | None  # report.html; None without `out`
    notes: list[str]  # sentences about the start of the runs, and about what could not be made
    at: tuple[int, ...] = ()  # byte counts, at which the table has the accuracy

    @property
    def rows(self) -> list[Row]:
        """One row per method, averaged over its seeds."""
        return rows(self.records, self.target, self.at)

    @property
    def table(self) -> str:
        """The table as `fewbits compare` prints it, 80 columns wide."""
        return printed(terminal(self.rows))

    @property
    def history(self) -> Any:
        """A row per method, seed and round with every figure of the report: a pandas DataFrame, or a list of dicts."""
        found = ((record, report) for record in self.records for report in record.reports)
        return history.frame([{"method": r.method, "seed": r.seed} | history.figures(report) for r, report in found])

    def plot(self, what: str | None = None) -> Figure:
        """The picture of the page, as a figure of matplotlib: a line per method, a band over its seeds.

        Args:
            what: "accuracy", "loss" or "metric"; None: the first of accuracy, metric and loss that was measured.

        Raises:
            LocalError: it was not measured, or matplotlib is missing.
        """
        shown = history.wanted([record.reports for record in self.records], what)
        return drawing.against_bytes(figure.curves(self.records, shown), shown)

    def _repr_html_(self) -> str:
        names = columns(self.rows)
        return notebook.cell([names, *(cells(row, names) for row in self.rows)], [*legend(self.rows), *self.notes])

    def __str__(self) -> str:
        wrap = textwrap.TextWrapper(WIDTH, break_long_words=False, break_on_hyphens=False)
        return self.table + "".join(f"{wrap.fill(note)}\n" for note in self.notes[:5])


def compare(
    model: Model,
    clients: Any,
    methods: str | Sequence[str | Method] | Mapping[str, str | Method],
    seeds: Sequence[int] = (0,),
    rounds: int | None = None,
    *,
    budget: int | str | None = None,
    test: Any = None,
    local: Local | Callable[..., Any] | None = None,
    per_round: int | None = None,
    loss: Loss | None = None,
    metric: Metric | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    population: int | None = None,
    holdout: float | None = None,
    processes: int = 1,
    device: str = "cpu",
    out: Path | str | None = None,
    target: float | None = None,
    at: Sequence[int | str] = (),
    watch: Callable[[str, int, RoundReport], None] | None = None,
    log: Sequence[str | Observer] = (),
) -> Comparison:
    """Train copies of `model` by several methods and seeds, and compare their accuracy and bytes.

    All runs have the same data, and all runs of a seed the same initial weights.

    Args:
        model: the initial model, which stays as it is. Or a function that makes one, as `federate` takes it; it is
            called once for each seed.
        clients: the data of each client, in any form that `federate` takes.
        methods: texts such as "dense", "topk@fraction=0.01" or "label=lbgm+topk", or Methods; a dict of them by labels;
            or one text with commas, as the command line takes it: "dense,a=topk@fraction=0.01,bits=8".
        seeds: each method is trained once with each seed; 0 alone by default. Give three or more to see the spread.
        rounds: rounds of each run, 50 by default; with a budget the most, and by default no limit.
        budget: most bytes of each run, both directions: a number, or text such as "2MB" or "20kB/client".
        test: what the model is evaluated on after every round, in any of these forms.
        local: how a client trains: a `fb.LocalSGD`, a `fb.LocalTraining` with any optimizer of torch's, or a function
            of (model, data, context). By default one epoch of SGD with learning rate 0.1 and batches of 10.
        per_round: clients sampled in each round; None: all.
        loss: loss(output, y), the batch's mean; None: cross-entropy.
        metric: metric(output, y), the mean over a batch or its (sum, count), or one of fb.metrics; measured on `test`.
        collate: makes a batch of a list of examples, for data sets; it pads texts of several lengths.
        population: how many clients there are, where `clients` is a function.
        holdout: share of every client's examples for the evaluation of its own model, as `federate` takes it.
        processes: worker processes; results do not depend on it.
        device: where clients train; another than "cpu" needs one process.
        out: folder for logs, checkpoints and report.html; a stopped comparison continues there. None: nothing is left.
        target: an accuracy; the table has the bytes that it took.
        at: sizes such as "1MB", at which the table has the accuracy; by default the most bytes that all runs spent.
        watch: called as watch(label, seed, report) after every round.
        log: trackers, as `federate` takes them; each run of the comparison is a run of theirs.

    Raises:
        LocalError: a method, the data, a tracker or `out` is not usable.

    Example:
        >>> import torch
        >>> data = [(torch.eye(4), torch.arange(4)) for _ in range(2)]
        >>> found = compare(nn.Linear(4, 4), data, ["dense", "topk@fraction=0.5"], seeds=[0], rounds=2)
        >>> dense, topk = found.rows
        >>> topk.method, topk.up < dense.up
        ('topk@fraction=0.5', True)
    """
    check_call(rounds=rounds, watch=watch, out=out)
    observing = observers(log, out)
    built, labels = _built(methods)
    seeds = _checked(seeds)
    if target is not None:
        check_number("compare: target", target, "(0, 1]", numpy=True, hint=", such as 0.9 for 90%")
    wanted = checked_sizes(at)
    initial = InitialModel.of(model, Key(seeds[0]))
    given = ClientData(clients, collate, population)
    task = held_out(task_over(initial.module, given, test, local, loss, metric), holdout)
    length = lengths(rounds, budget, task.clients)
    schedule = Schedule(length.rounds, per_round, 1, 10, processes, device, length.budget)
    check_first_batch(task, device)
    dear: dict[str, str] = {}
    for label, method in built.items():  # a mistake is found before anything is trained
        method.objective.check(task.local)
        method.prepare(duplicate(initial.module), Key(seeds[0]).fold("factor"))
        dear[label] = too_dear(schedule, initial.started(task), method, Key(seeds[0]))
    without = left_out(dear)
    built = {label: method for label, method in built.items() if label not in without}
    if out is not None:
        check_continues(Path(out), tuple(folder_name(label, seed) for seed in seeds for label in built))
    shared = shown_settings(task) | {**length.config, "per_round": per_round, "local": repr(task.local)}
    records: list[Record] = []
    faults: list[str] = []
    with _folder(out) as folder:
        _lock = RunLock.of(folder)
        for seed in seeds:
            initial = initial if seed == seeds[0] else InitialModel.of(model, Key(seed))
            for label, method in built.items():
                place = folder / folder_name(label, seed)
                begun = initial.started(replace(task, model=duplicate(initial.module)))
                run = Federation(begun, method, schedule, Key(seed), place)
                config = {"method": repr(method), "seed": seed, **shared}
                where = None if out is None else place
                with watching(() if run.finished else observing, folder_name(label, seed), config, where) as watchers:
                    shown = None if watch is None else lambda r, label=label, seed=seed: watch(label, seed, r)
                    watchers.result = result = run.run(watchers.watch(shown))
                faults += [f"{label}, seed {seed}: {note}" for note in result.notes]
                with placed(place):
                    records.append(Record.read(place, label, seed))
    records = against_dense(records)
    shown, start = wanted or common_bytes(records), INITIAL if isinstance(model, nn.Module) else SEEDED
    notes = [start, *without.values(), *faults]
    if out is not None:
        config = {**length.config, "per_round": per_round, "seeds": list(seeds), "local": repr(task.local)}
        config |= {"methods": {label: repr(method) for label, method in built.items()}}
        config |= {"notes": list(without.values())} if without else {}
        line = f"{subtitle(task, participants(task, per_round), length.said)} {start}"
        found = _report(line, config, records, target, shown, labels, model_figures(initial.module))
        notes += write(Path(out), found)
    return Comparison(records, target, None if out is None else Path(out) / PAGE, notes, shown)


def _built(
    methods: str | Sequence[str | Method] | Mapping[str, str | Method],
) -> tuple[dict[str, Method], dict[str, str]]:
    """The methods by their labels, in order; and the texts of the labelled ones."""
    found: dict[str, Method] = {}
    labels: dict[str, str] = {}
    for given, method in _labelled(methods):
        made = named(method)
        label = given or (method if isinstance(method, str) else made.name)
        if label in found:
            raise LocalError(f"compare: two methods are called {label!r}; give labels, as in 'a=topk'")
        found[label] = made
        if given and isinstance(method, str):
            labels[label] = method
    return found, labels


def _labelled(methods: object) -> list[tuple[str, Any]]:
    """Each method with its label; "": it has none."""
    if isinstance(methods, str):
        texts = read_all(methods, options)
    elif isinstance(methods, Mapping):
        for label in methods:
            if not isinstance(label, str) or not label or not label.isprintable():
                raise LocalError(f"compare: a label of a method is text; got {label!r}")
        texts = list(methods.items())
    else:
        texts = list(methods) if isinstance(methods, Iterable) else []
        texts = [read_labelled(one, options) if isinstance(one, str) else ("", one) for one in texts]
    if not texts:
        raise LocalError(f"compare: methods is a list such as ['dense', 'topk@fraction=0.01']; got {methods!r}")
    return [(one.given, str(one)) if isinstance(one, MethodText) else one for one in texts]


def _checked(seeds: Sequence[int]) -> list[int]:
    """The seeds as a list; LocalError unless each is a whole number and given once."""
    if not isinstance(seeds, Sequence) or isinstance(seeds, str | bytes | bytearray | memoryview):
        raise LocalError(f"compare: seeds is a list such as [0, 1, 2]; got {seeds!r}")
    for seed in seeds:
        check_seed("compare: a seed", seed)
    if not seeds or len(set(seeds)) != len(seeds):
        raise LocalError(f"compare: give one or more seeds, each once; got {list(seeds)}")
    return [int(seed) for seed in seeds]


@contextmanager
def _folder(out: Path | str | None) -> Iterator[Path]:
    """The folder of the runs: `out`, or a temporary one."""
    if out is not None:
        with placed(out):
            Path(out).mkdir(parents=True, exist_ok=True)
        yield Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="fewbits-") as temporary:
        yield Path(temporary)


def _report(
    line: str,
    config: Mapping[str, object],
    records: Sequence[Record],
    target: float | None,
    at: Sequence[int],
    labels: Mapping[str, str],
    model: Mapping[str, str],
) -> Report:
    """The page and the figures of all runs."""
    title = f"Comparison of {', '.join(dict.fromkeys(record.method for record in records))}"
    summary = [{**record.summary(target, at), **model} for record in records]
    return report(title, records, config, summary, target, line, labels, at)
