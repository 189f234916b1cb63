"""Play runs: from a configuration and a folder to the record of what happened."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import save
from torch import nn

from fewbits.cli.assemble import build_federation, build_task, load_data
from fewbits.cli.comparison import Comparison
from fewbits.cli.config import NAME, RunConfig
from fewbits.cli.interrupt import EXIT_CODE, Interrupt
from fewbits.cli.live import Live, ProgressRow
from fewbits.engines.simulation import Task, footprint
from fewbits.files import write_atomically
from fewbits.report import Record, rows
from fewbits.report.record import against_dense
from fewbits.report.table import terminal
from fewbits.report.write import write
from fewbits.rng import Key

Done = TypeVar("Done")  # the record of a run
SUMMARY, MODEL = "summary.json", "model.safetensors"
NOTES_SHOWN = 5
SAID_FROM = 10**9  # bytes of dense states for all clients, from which on it is said what they will take on disk


def play(
    config: RunConfig, folder: Path, task: Task, row: ProgressRow, interrupt: Interrupt, console: Console
) -> Record | None:
    """One run, new or continued, in its folder; None when it was interrupted before its last round."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMMARY).unlink(missing_ok=True)  # only a finished run has one
    config.write(folder)
    federation = build_federation(config, folder, task)
    if federation.reports:
        row.show(federation.reports[-1])
    result = federation.run(watch=row.show, stop=lambda: interrupt.asked)
    for note in result.notes[:NOTES_SHOWN]:
        console.print(f"note: {note}", markup=False, style="yellow")
    if result.reports[-1].round < config.rounds:
        return None
    save_model(result.model, folder / MODEL)
    record = Record.read(folder, config.method, config.seed)
    write_summary(record.summary(), folder)
    return record


def write_summary(summary: Mapping[str, object], folder: Path) -> None:
    """The file that only a finished run has."""
    write_atomically(folder / SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())


def save_model(model: nn.Module, path: Path) -> None:
    """The model's state dict as safetensors."""
    # Parameters are views of one buffer, which safetensors refuses.
    write_atomically(path, save({name: x.detach().clone().contiguous() for name, x in model.state_dict().items()}))


def train(config: RunConfig, folder: Path, task: Task, console: Console) -> None:
    """One run with its report."""
    _say_estimate(config, task, console)
    try:
        with Interrupt() as interrupt, Live(console) as live:
            record = play(config, folder, task, live.row(config.method, config.rounds), interrupt, console)
    except KeyboardInterrupt:
        raise aborted(console, f"fewbits train --resume {folder}") from None
    if record is None:
        raise stopped(console, f"fewbits train --resume {folder}")
    title = f"{config.method} on {config.data}"
    notes = write(folder, title, [record], config.asdict(), record.summary())
    show_report(terminal(rows([record])), notes, folder, console)


def _say_estimate(config: RunConfig, task: Task, console: Console) -> None:
    """Say what the clients' states will take on disk where it may be much."""
    dense = sum(x.nbytes for x in task.model.state_dict().values())
    if dense * config.clients < SAID_FROM:
        return
    found = footprint(task, config.build_method(), config.schedule(), Key(config.seed))
    console.print(
        f"states on disk, both ends of all links: about {found.per_client / 1e3:,.1f} kB per client that has taken "
        f"part, {found.after_run / 1e6:,.1f} MB after these rounds, {found.at_most / 1e6:,.1f} MB for all clients",
        highlight=False,
    )


def compare(comparison: Comparison, folder: Path, console: Console, title: str, again: str) -> None:
    """All runs of a comparison, those that are finished already left out, with one report."""
    found = load_data(comparison.base)

    def one(config: RunConfig, place: Path, row: ProgressRow, interrupt: Interrupt) -> Record | None:
        if finished(config, place):
            record = Record.read(place, config.method, config.seed)
            row.show(record.last)
            return record
        return None if interrupt.asked else play(config, place, build_task(config, found), row, interrupt, console)

    target = comparison.target_accuracy
    records = against_dense(play_all(comparison, folder, console, again, one))
    config = {
        name: value for name, value in comparison.base.asdict().items() if name not in ("method", "seed", "settings")
    }
    config |= {"methods": comparison.methods, "seeds": comparison.seeds, "settings": comparison.settings}
    notes = write(folder, title, records, config, [record.summary(target) for record in records], target)
    show_report(terminal(rows(records, target)), notes, folder, console)


def play_all(
    comparison: Comparison,
    folder: Path,
    console: Console,
    again: str,
    one: Callable[[Any, Path, ProgressRow, Interrupt], Done | None],
) -> list[Done]:
    """What `one` gives for each run in turn; when that is None, or after Ctrl-C, say that `again` goes on, and exit."""
    comparison.write(folder)
    records: list[Done] = []
    try:
        with Interrupt() as interrupt, Live(console) as live:
            for name, config in comparison.runs().items():
                label = config.method if len(comparison.seeds) == 1 else f"{config.method} seed {config.seed}"
                record = one(config, folder / name, live.row(label, config.rounds), interrupt)
                if record is None:
                    break
                records.append(record)
            else:
                return records
    except KeyboardInterrupt:
        raise aborted(console, again) from None
    raise stopped(console, again)


def finished(config: RunConfig, folder: Path) -> bool:
    """Whether the run in `folder` is this one, finished."""
    if not ((folder / SUMMARY).is_file() and (folder / NAME).is_file()):
        return False
    earlier = type(config).read(folder)
    return replace(earlier, processes=config.processes, checkpoint_every=config.checkpoint_every) == config


def show_report(table: Table, notes: list[str], folder: Path, console: Console) -> None:
    """What is said when runs have ended: the table, what went wrong, and where the report is."""
    console.print()
    console.print(table)
    for note in notes:
        console.print(f"note: {note}", markup=False, style="yellow")
    console.print(f"report: {folder / 'report.html'}", markup=False, highlight=False)


def stopped(console: Console, again: str) -> typer.Exit:
    """Say how to go on after a stop between rounds."""
    return _exit(console, f"stopped; all rounds so far are kept. Continue with: {again}")


def aborted(console: Console, again: str) -> typer.Exit:
    """Say how to go on after a stop within a round."""
    return _exit(console, f"aborted; continue from the last checkpoint with: {again}")


def _exit(console: Console, sentence: str) -> typer.Exit:
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    return typer.Exit(EXIT_CODE)
