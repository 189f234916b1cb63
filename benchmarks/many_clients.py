"""Memory and disk of a federation with very many registered clients: LBGM on top-k, the 431,080-parameter CNN.

    python benchmarks/many_clients.py --data-dir DIR [--clients 100000] [--rounds 50] [--per-round 100]

Prints what the state files were expected to weigh before the run, then what they weigh, and the memory of all
processes: proportional set size (pages shared by several are split among them), and the sum of the resident sizes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np

import fewbits as fb
from fewbits import data, models
from fewbits.engines.simulation import footprint


def processes() -> list[str]:
    """This process and all below it."""
    found = [str(os.getpid())]
    for parent in found:
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            found += path.read_text().split()
    return found


def mib(field: str, file: str) -> float:
    """Sum over the processes of a line of /proc."""
    total = 0
    for process in processes():
        lines = Path(f"/proc/{process}/{file}").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith(field))
    return total / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--clients", type=int, default=100_000)
    parser.add_argument("--per-round", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--method", default="lbgm+topk")
    options = parser.parse_args()
    images, key = data.load("mnist", options.data_dir), fb.Key(0)
    rows = key.fold("parts").below(len(images.train_y), 5 * options.clients).astype(np.int64)
    model = models.build("cnn", images, key)
    task = fb.simulation.Task(
        model,
        images.train_x,
        images.train_y,
        rows.reshape(options.clients, 5),
        local=fb.LocalSGD(lr=0.05, batch_size=5),
    )
    method = fb.methods.build(options.method)
    schedule = fb.simulation.Schedule(options.rounds, per_round=options.per_round, processes=2, checkpoint_every=10)
    expected = footprint(task, method, schedule, key)
    print(
        f"{options.clients:,} clients, {sum(p.numel() for p in model.parameters()):,} parameters, {options.method}\n"
        f"expected: {expected.per_client / 1e3:.1f} kB per client, {expected.after_run / 1e6:.1f} MB after "
        f"{options.rounds} rounds ({expected.seen:,.0f} clients), {expected.at_most / 1e9:.2f} GB for all clients"
    )
    print("| after round | clients seen | memory (PSS), MiB | sum of resident, MiB | states on disk, MB |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        run = fb.simulation.Federation(task, method, schedule, key, folder)

        def weigh() -> float:
            return sum(path.stat().st_size for path in (Path(folder) / "states").iterdir()) / 1e6

        def watch(report: fb.simulation.RoundReport) -> None:
            if report.round in (1, options.rounds) or report.round % 10 == 0:
                pss, resident = mib("Pss:", "smaps_rollup"), mib("VmRSS:", "status")
                seen = len(run.server.versions)
                print(f"| {report.round} | {seen:,} | {pss:.0f} | {resident:.0f} | {weigh():.1f} |", flush=True)

        run.run(watch)
        found = weigh()
    print(f"states on disk at the end: {found:.1f} MB; expected {expected.after_run / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
