"""Runs without a server: from configurations and a folder to a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from torch import nn

from fewbits.cli.config import NAME, RunConfig
from fewbits.cli.gossip.config import GossipComparison, GossipConfig
from fewbits.cli.interrupt import Interrupt
from fewbits.cli.live import Position, ProgressRow
from fewbits.cli.objective_text import objective
from fewbits.cli.play import (
    SUMMARY,
    noted,
    play_all,
    shared_config,
    show_report,
    write_summary,
)
from fewbits.cli.play import finished as play_finished
from fewbits.cli.prepared import InitialModels, initial_model, partition, split_notes
from fewbits.cli.screen import print_notes
from fewbits.data import Data
from fewbits.engines.common.run_files import MODEL, NODES, write_nodes, write_weights
from fewbits.engines.common.run_lock import RunLock
from fewbits.engines.gossip import GossipReport, GossipResult, GossipRun
from fewbits.engines.simulation import Task
from fewbits.factor.derived import duplicate
from fewbits.learn.gossip import GossipMethod
from fewbits.report.gossip import GossipRecord, against_dsgd, legend, report, rows, terminal
from fewbits.report.text import NONE
from fewbits.report.write import write
from fewbits.rng import Key


@dataclass(frozen=True, eq=False)
class PreparedGossip:
    """Everything that a run without a server needs, built once and passed on."""

    config: GossipConfig
    method: GossipMethod
    task: Task

    def run(self, folder: Path) -> GossipRun:
        """The run in `folder`, new or continued."""
        config = self.config
        schedule, key = config.schedule(), Key(config.seed)
        return GossipRun(self.task, self.method, config.network(), schedule, key, folder, config.on_disk)


def build_task(config: RunConfig, found: Data, initial: nn.Module | None = None) -> Task:
    """Partition and initial model: they depend on the seed alone; `initial` is copied."""
    parts = partition(config, found)
    model = initial_model(config, found) if initial is None else duplicate(initial)
    loss, metric = objective(config.loss, config.metric, found)
    tests = found.test_x, found.test_y
    return Task(model, found.train_x, found.train_y, parts, *tests, config.local(), loss, metric=metric)


class Compared:
    """A comparison with its data; builds each method once, and the initial model once for each seed."""

    def __init__(self, comparison: GossipComparison, found: Data) -> None:
        self.comparison, self.found, self.initial = comparison, found, InitialModels(found)

    def prepare(self, config: GossipConfig) -> PreparedGossip:
        """A run of the comparison, ready to be played."""
        task = build_task(config, self.found, self.initial.of(config))
        return PreparedGossip(config, self.comparison.built[config.name], task)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the split of the first seed leaves out."""
        return split_notes(next(iter(self.comparison.runs().values())), self.found)

    def check(self) -> None:
        """LocalError when the split does not fit the data, or the model does not fit."""
        config = next(iter(self.comparison.runs().values()))
        assert isinstance(config, GossipConfig)
        self.prepare(config)


def play(
    prepared: PreparedGossip, folder: Path, row: ProgressRow, interrupt: Interrupt, console: Console
) -> GossipRecord | None:
    """One run; None when it was interrupted before its last round."""
    folder.mkdir(parents=True, exist_ok=True)
    _lock = RunLock.of(folder)  # before anything in it changes
    if not (folder / NAME).is_file():
        prepared.config.write(folder)
    run = prepared.run(folder)  # may refuse to go on; then the folder stays as it is
    (folder / SUMMARY).unlink(missing_ok=True)  # only finished runs have a summary
    prepared.config.write(folder)
    if run.reports:
        show(row, run.reports[-1])
    result = run.run(watch=lambda report: watch(row, report), stop=lambda: interrupt.asked)
    print_notes(row.rest(result.notes), console)
    return save_result(result, prepared.config, folder)


def save_result(result: GossipResult, config: GossipConfig, folder: Path) -> GossipRecord | None:
    """Save models and summary of a finished run; None for an unfinished run."""
    if not result.reports or result.reports[-1].round < config.rounds:
        return None
    write_weights(result.model, folder / MODEL)
    write_nodes(result.model, result.models, folder / NODES)
    record = GossipRecord.read(folder, config.name, config.seed)
    write_summary(record.summary(), folder)
    return record


def watch(row: ProgressRow, report: GossipReport) -> None:
    """Move to the report of a round that just ended, and print its notes."""
    show(row, report)
    row.tell(report.notes)


def show(row: ProgressRow, report: GossipReport) -> None:
    """Update a run's progress row."""
    consensus = NONE if report.consensus is None else f"{report.consensus:.2g}"
    note = f"consensus {consensus}, {report.sparsity:.0%} zero"
    row.move(Position(report.round, report.frame_bytes, report.link_bytes, report.accuracy, report.seconds, note))


def compare(compared: Compared, folder: Path, console: Console) -> None:
    """Run all methods except finished ones, and write one report."""
    comparison = compared.comparison

    def one(config: GossipConfig, run_folder: Path, row: ProgressRow, interrupt: Interrupt) -> GossipRecord | None:
        if record := finished(config, run_folder):
            show(row, record.last)
            return record
        return None if interrupt.asked else play(compared.prepare(config), run_folder, row, interrupt, console)

    print_notes(compared.notes, console)
    records = play_all(comparison, folder, console, one)
    conclude(comparison, folder, records, console, compared.notes)


def conclude(
    comparison: GossipComparison,
    folder: Path,
    records: list[GossipRecord],
    console: Console,
    split_notes: Sequence[str] = (),
) -> None:
    """Write the report of all runs and print the table; `split_notes`: what the split leaves out."""
    records, target, base = against_dsgd(records), comparison.target_accuracy, comparison.base
    assert isinstance(base, GossipConfig)
    config = noted(shared_config(comparison, ("per_round", "holdout", "keep_frames", "device")), split_notes)
    title = f"{', '.join(comparison.labels)} on {base.data}, without a server"
    graph = replace(base, seed=comparison.seeds[0]).graph()
    notes = write(folder, report(title, records, config, graph, target))
    show_report(terminal(rows(records, target), legend(records)), notes, folder, console)


def finished(config: GossipConfig, folder: Path) -> GossipRecord | None:
    """The record of the finished run of this configuration in `folder`, if there is one."""
    return GossipRecord.read(folder, config.name, config.seed) if play_finished(config, folder) else None
