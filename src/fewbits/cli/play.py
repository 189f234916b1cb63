"""Play prepared runs in their folders, and report what they reached."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from fewbits.cli.comparison import Comparison
from fewbits.cli.config import NAME, RunConfig
from fewbits.cli.folder import again
from fewbits.cli.interrupt import Interrupt
from fewbits.cli.live import Live, ProgressRow
from fewbits.cli.prepared import Found, InitialModels, PreparedRun, personal_notes, prepare, split_notes
from fewbits.cli.run_file import write_settings
from fewbits.cli.screen import print_notes
from fewbits.ctrl_c import EXIT_CODE
from fewbits.engines.common.run_files import MODEL, write_weights
from fewbits.engines.common.run_lock import RunLock
from fewbits.engines.common.same_run import check_goes_on
from fewbits.engines.simulation import footprint
from fewbits.engines.simulation.affordable import left_out
from fewbits.factor.coordinates import leave_subspace
from fewbits.factor.derived import duplicate
from fewbits.files import write_atomically
from fewbits.json_text import json_text
from fewbits.methods.text import folder_name
from fewbits.report import Record, rows
from fewbits.report.record import against_dense, common_bytes
from fewbits.report.table import terminal
from fewbits.report.training import report
from fewbits.report.write import write
from fewbits.trackers import Observer, watching

Done = TypeVar("Done")  # the record of a run
SUMMARY = "summary.json"
ESTIMATE_FROM = 10**9  # bytes of dense states of all clients; the disk estimate is printed from there on


def play(
    run: PreparedRun,
    folder: Path,
    row: ProgressRow,
    interrupt: Interrupt,
    console: Console,
    log: Sequence[Observer] = (),
) -> Record | None:
    """One run, new or continued, in its folder; None when it was interrupted before its last round."""
    config = run.config
    folder.mkdir(parents=True, exist_ok=True)
    _lock = RunLock.of(folder)  # before anything in it changes
    if not (folder / NAME).is_file():
        write_settings(config, folder)
    federation = run.federation(folder)  # may refuse to go on; then the folder stays as it is
    (folder / SUMMARY).unlink(missing_ok=True)  # only a finished run has one
    write_settings(config, folder)
    if federation.reports:
        row.show(federation.reports[-1])
    observing = () if federation.finished else log
    with watching(observing, folder_name(config.name, config.seed), config.asdict(), folder) as watchers:
        watchers.result = result = federation.run(watch=watchers.watch(row.watch), stop=lambda: interrupt.asked)
    print_notes(row.rest(result.notes), console)
    if not federation.finished:
        return None
    leave_subspace(result.model)  # the file holds the model's own parameters
    write_weights(result.model, folder / MODEL)
    record = Record.read(folder, config.name, config.seed)
    write_summary(record.summary(), folder)
    return record


def write_summary(summary: Mapping[str, object], folder: Path) -> None:
    """The file that only a finished run has."""
    write_atomically(folder / SUMMARY, (json_text(summary, indent=2) + "\n").encode())


def train(run: PreparedRun, folder: Path, console: Console, log: Sequence[Observer] = ()) -> Record:
    """One run with its report; returns its record."""
    config = run.config
    _print_estimate(run, console)
    print_notes(run.notes, console)
    if config.chosen is not None:
        console.print(config.chosen, markup=False, highlight=False, soft_wrap=True)
    with Interrupt() as interrupt, Live(console) as live:
        row = live.row(config.name, config.rounds, config.budget_bytes)
        record = play(run, folder, row, interrupt, console, log)
    if record is None:
        raise stopped(console, again(folder, config))
    found = report(f"{config.name} on {config.data}", [record], noted(config.meant(), run.notes), record.summary())
    show_report(terminal(rows([record])), write(folder, found), folder, console)
    return record


def noted(config: Mapping[str, object], notes: Sequence[str]) -> dict[str, object]:
    """The configuration as a page shows it, with what is to be known of the runs."""
    return {**config, "notes": list(notes)} if notes else dict(config)


def _print_estimate(run: PreparedRun, console: Console) -> None:
    """Print how much disk the clients' states will take, when it may be much and the number of rounds is known."""
    dense = sum(x.nbytes for x in run.task.model.state_dict().values())
    if dense * run.config.clients < ESTIMATE_FROM or run.config.rounds is None:
        return
    found = footprint(run.task, run.method, run.config.schedule(), run.key)
    console.print(
        f"disk for the states of all links: about {found.per_client / 1e3:,.1f} kB per client that has taken part, "
        f"{found.after_run / 1e6:,.1f} MB after these rounds, {found.at_most / 1e6:,.1f} MB for all clients",
        highlight=False,
    )


class Compared:
    """A comparison with its data; builds each method once, and the initial model once for each seed."""

    def __init__(self, comparison: Comparison, found: Found) -> None:
        self.comparison, self.found, self.initial = comparison, found, InitialModels(found)

    def prepare(self, config: RunConfig) -> PreparedRun:
        """A run of the comparison, ready to be played."""
        return prepare(config, self.found, self.comparison.built[config.name], self.initial.of(config))

    @cached_property
    def left_out(self) -> dict[str, str]:
        """A sentence for each method of which one round is above the budget; LocalError when all are."""
        runs = list(self.comparison.runs().values())[: len(self.comparison.methods)]
        return left_out({config.name: self.prepare(config).too_dear for config in runs if config.budget is not None})

    @property
    def notes(self) -> tuple[str, ...]:
        """What the split of the first seed leaves out, and methods that the budget leaves out or the test set."""
        split = split_notes(next(iter(self.comparison.runs().values())), self.found)
        return (*split, *personal_notes(self.comparison.built.values(), self.found), *self.left_out.values())

    def check(self) -> None:
        """LocalError when a method does not fit the model, the split the data, or no method the budget."""
        first, *others = list(self.comparison.runs().values())[: len(self.comparison.methods)]
        prepared = self.prepare(first)
        prepared.check_code()
        key = prepared.key
        for config in others:  # they differ in their methods only
            method = self.comparison.built[config.name]
            method.prepare(duplicate(self.initial.of(config)), key.fold("factor"))
        _ = self.left_out


def compare(compared: Compared, folder: Path, console: Console, title: str, log: Sequence[Observer] = ()) -> None:
    """All runs of a comparison except those that are finished already, with one report."""
    comparison = compared.comparison

    def one(config: RunConfig, place: Path, row: ProgressRow, interrupt: Interrupt) -> Record | None:
        if finished(config, place):
            record = Record.read(place, config.name, config.seed)
            row.show(record.last)
            return record
        return None if interrupt.asked else play(compared.prepare(config), place, row, interrupt, console, log)

    target, notes, at = comparison.target_accuracy, compared.notes, comparison.at
    print_notes(notes, console)
    records = against_dense(play_all(comparison, folder, console, one, compared.left_out))
    at = at or common_bytes(records)
    summary = [record.summary(target, at) for record in records]
    labels = {text.label: str(text) for text in comparison.texts if text.given}
    found = report(title, records, noted(shared_config(comparison), notes), summary, target, labels=labels, at=at)
    show_report(terminal(rows(records, target, at)), write(folder, found), folder, console)


def shared_config(comparison: Comparison, left_out: Sequence[str] = ()) -> dict[str, object]:
    """What all runs of a comparison have in common, for its page."""
    varied = ("method", "seed", "settings", "label", *left_out)
    config = {name: value for name, value in comparison.base.meant().items() if name not in varied}
    return config | {"methods": comparison.methods, "seeds": comparison.seeds, "settings": comparison.settings}


def play_all(
    comparison: Comparison,
    folder: Path,
    console: Console,
    one: Callable[[Any, Path, ProgressRow, Interrupt], Done | None],
    left_out: Container[str] = (),
) -> list[Done]:
    """The records that `one` gives, run by run; when it gives None, or after Ctrl-C, print how to go on, and exit.

    `left_out`: labels of methods that are not played.
    """
    _lock = RunLock.of(folder)
    runs = {name: config for name, config in comparison.runs().items() if config.name not in left_out}
    for name, config in runs.items():
        check_goes_on(folder / name, config.schedule().rounds, config.budget_bytes)
    write_settings(comparison, folder)
    records: list[Done] = []
    with Interrupt() as interrupt, Live(console) as live:
        for name, config in runs.items():
            label = config.name if len(comparison.seeds) == 1 else f"{config.name} seed {config.seed}"
            record = one(config, folder / name, live.row(label, config.rounds, config.budget_bytes), interrupt)
            if record is None:
                break
            records.append(record)
        else:
            return records
    raise stopped(console, again(folder, comparison))


def finished(config: RunConfig, folder: Path) -> bool:
    """Whether `folder` holds this run, finished."""
    if not ((folder / SUMMARY).is_file() and (folder / NAME).is_file()):
        return False
    earlier = type(config).read(folder)
    return replace(earlier, processes=config.processes, checkpoint_every=config.checkpoint_every) == config


def show_report(table: Table, notes: list[str], folder: Path, console: Console) -> None:
    """Print the table, the notes, and where the report is."""
    console.print()
    console.print(table)
    print_notes(notes, console)
    console.print(f"report: {folder / 'report.html'}", markup=False, highlight=False)


def stopped(console: Console, again: str) -> typer.Exit:
    """Print how to continue after a stop between rounds."""
    sentence = f"stopped after a finished round; continue with: {again}"
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    return typer.Exit(EXIT_CODE)
