"""Runs without a server: from configurations and a folder to a report."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from safetensors.torch import save

from fewbits import data, models
from fewbits.cli.assemble import load_data
from fewbits.cli.config import RunConfig
from fewbits.cli.gossip.config import GossipComparison, GossipConfig
from fewbits.cli.interrupt import Interrupt
from fewbits.cli.live import ProgressRow
from fewbits.cli.play import MODEL, NOTES_SHOWN, SUMMARY, play_all, save_model, show_report, write_summary
from fewbits.cli.play import finished as play_finished
from fewbits.data import Data
from fewbits.engines.gossip import GossipReport, GossipResult, GossipRun
from fewbits.engines.simulation import Task
from fewbits.files import write_atomically
from fewbits.learn.flat_model import FlatModel
from fewbits.report.gossip import GossipRecord, against_dsgd, rows, terminal, write
from fewbits.rng import Key

NODES = "nodes.safetensors"


def build_task(config: RunConfig, found: Data) -> Task:
    """Partition and initial model; they depend on the seed alone, so every method has the same."""
    key = Key(config.seed)
    parts = data.partition(found.train_y, config.split, config.clients, key.fold("partition"), found.groups)
    model = models.build(config.model, found, key.fold("model"))
    return Task(model, found.train_x, found.train_y, parts, found.test_x, found.test_y, config.local())


def build_run(config: GossipConfig, folder: Path, found: Data) -> GossipRun:
    """The run in `folder`, new or continued."""
    task, method = build_task(config, found), config.gossip_method()
    return GossipRun(task, method, config.network(), config.schedule(), Key(config.seed), folder, config.on_disk)


def play(
    config: GossipConfig, folder: Path, found: Data, row: ProgressRow, interrupt: Interrupt, console: Console
) -> GossipRecord | None:
    """One run; None when it was interrupted before its last round."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMMARY).unlink(missing_ok=True)  # only finished runs have a summary
    config.write(folder)
    run = build_run(config, folder, found)
    if run.reports:
        show(row, run.reports[-1])
    result = run.run(watch=lambda report: show(row, report), stop=lambda: interrupt.asked)
    for note in result.notes[:NOTES_SHOWN]:
        console.print(f"note: {note}", markup=False, style="yellow")
    return save_result(result, config, folder)


def save_result(result: GossipResult, config: GossipConfig, folder: Path) -> GossipRecord | None:
    """Save models and summary of a finished run; None for an unfinished run."""
    if not result.reports or result.reports[-1].round < config.rounds:
        return None
    save_model(result.model, folder / MODEL)
    layout = [[name, list(x.shape)] for name, x in FlatModel(copy.deepcopy(result.model)).named().items()]
    write_atomically(folder / NODES, save({"models": result.models.clone()}, {"layout": json.dumps(layout)}))
    record = GossipRecord.read(folder, config.method, config.seed)
    write_summary(record.summary(), folder)
    return record


def show(row: ProgressRow, report: GossipReport) -> None:
    """Update a run's progress row."""
    note = f"consensus {report.consensus:.2g}, {report.sparsity:.0%} zero"
    row.bring(report.round, report.frame_bytes, report.link_bytes, report.accuracy, note)


def compare(comparison: GossipComparison, folder: Path, console: Console) -> None:
    """Run all methods except finished ones, and write one report."""
    found = load_data(comparison.base)

    def one(config: GossipConfig, run_folder: Path, row: ProgressRow, interrupt: Interrupt) -> GossipRecord | None:
        if record := finished(config, run_folder):
            show(row, record.last)
            return record
        return None if interrupt.asked else play(config, run_folder, found, row, interrupt, console)

    conclude(
        comparison, folder, play_all(comparison, folder, console, f"fewbits gossip --resume {folder}", one), console
    )


def conclude(comparison: GossipComparison, folder: Path, records: list[GossipRecord], console: Console) -> None:
    """Write the report of all runs and print the table."""
    records, target, base = against_dsgd(records), comparison.target_accuracy, comparison.base
    assert isinstance(base, GossipConfig)
    left_out = ("method", "seed", "settings", "per_round", "holdout", "keep_frames", "device")
    config = {name: value for name, value in base.asdict().items() if name not in left_out}
    config |= {"methods": comparison.methods, "seeds": comparison.seeds, "settings": comparison.settings}
    title = f"{', '.join(comparison.methods)} on {base.data}, without a server"
    graph = replace(base, seed=comparison.seeds[0]).graph()
    notes = write(folder, title, records, config, graph, target)
    show_report(terminal(rows(records, target)), notes, folder, console)


def finished(config: GossipConfig, folder: Path) -> GossipRecord | None:
    """The record of the finished run of this configuration in `folder`, if there is one."""
    return GossipRecord.read(folder, config.method, config.seed) if play_finished(config, folder) else None
