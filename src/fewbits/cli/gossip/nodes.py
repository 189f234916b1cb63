"""One node's process of `torchrun ... -m fewbits gossip`: the same runs, folder and report as in one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from fewbits.cli.folder import check_free, claim, is_ours
from fewbits.cli.gossip.config import GossipComparison, GossipConfig
from fewbits.cli.gossip.play import SUMMARY, Compared, conclude, finished, save_result, show, watch
from fewbits.cli.live import Live, ProgressRow
from fewbits.cli.prepared import listed, load_data
from fewbits.cli.screen import print_notes, screen
from fewbits.engines.common.run_lock import RunLock
from fewbits.engines.distributed import DistributedRun, World
from fewbits.json_text import json_text
from fewbits.report.gossip import GossipRecord
from fewbits.rng import Key


def compare(comparison: GossipComparison, folder: Path, new: bool, force: bool, world: World) -> None:
    """Run all methods in turn; only rank 0 writes to the folder, except for the nodes' checkpoints.

    Processes that torchrun has restarted resume from the folder.
    """
    claims = world.rank == 0 and new and not (world.process.attempt and is_ours(folder))
    if claims:
        check_free(folder, force)
    compared = Compared(comparison, listed(load_data(comparison.base)))
    compared.check()  # a mistake is found before anything is removed
    if claims:
        claim(folder, force, comparison)
    if world.rank == 0:
        _lock = RunLock.of(folder)
        comparison.write(folder)
    shown = replace(comparison, base=replace(comparison.base, data_dir=None))  # every machine may have its own folder
    world.agree({"command": json_text(shown.asdict())})  # rank 0 has prepared the folder
    console = screen(quiet=world.rank != 0)
    print_notes(compared.notes, console)
    with Live(console) as live:
        records = []
        for name, config in comparison.runs().items():
            assert isinstance(config, GossipConfig)
            row = live.row(name if len(comparison.seeds) > 1 else config.name, config.rounds)
            records.append(_run(compared, config, folder / name, row, world, console))
    if world.rank == 0:
        conclude(comparison, folder, [record for record in records if record is not None], console, compared.notes)


def _run(
    compared: Compared, config: GossipConfig, folder: Path, row: ProgressRow, world: World, console: Console
) -> GossipRecord | None:
    """Run one method unless its folder has a finished run; at rank 0, its record."""
    record = finished(config, folder) if world.rank == 0 else None
    first, *_ = world.agree({}, {"finished": "" if record is None else "yes"})
    if first["finished"]:
        if record is not None:
            show(row, record.last)
        return record
    if world.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SUMMARY).unlink(missing_ok=True)  # only finished runs have a summary
        config.write(folder)
    prepared = compared.prepare(config)
    key, schedule = Key(config.seed), config.schedule()
    run = DistributedRun(prepared.task, prepared.method, config.network(), schedule, key, folder, world)
    result = run.run(watch=lambda report: watch(row, report))
    print_notes(row.rest(result.notes), console)
    return save_result(result, config, folder) if world.rank == 0 else None
