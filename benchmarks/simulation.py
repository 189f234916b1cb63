"""Seconds per round of the engine `simulation` against the best bare hand-written loop, same model, data and steps.

    python benchmarks/simulation.py --data-dir DIR [--rounds 6] [--pairs 3] [--workloads w1 w3] [--memory-rounds 30]

The bare loop (bare_loop.py) sums floats in memory: no encoding, no frames, no ledger. Runs alternate, so that a
machine whose speed drifts slows both; the ratio is taken pair by pair and its median is quoted. With w3 it also says
how much memory the engine holds after the first and after the last of --memory-rounds, with the clients seen by then.
This takes tens of rounds: memory rises in the first ones and hardly after.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
from pathlib import Path

import bare_loop
import fewbits as fb
from fewbits import data, models

METHODS = {
    "dense frames": ("dense", {}),
    "LBGM on top-k on 4 bit on rANS": ("lbgm+topk", {}),
    "top-k + error feedback, 4 bit, rANS": ("topk", {}),
}


def federation(
    workload: str, images: data.Data, method: str, settings: dict[str, str], rounds: int
) -> fb.simulation.Federation:
    """`rounds` and one before them, in which processes start and kernels load."""
    shape = bare_loop.WORKLOADS[workload]
    key = fb.Key(0)
    parts = data.partition(images.train_y, "iid", shape.clients, key.fold("partition"))
    parts = [part[: shape.examples] for part in parts]
    task = fb.simulation.Task(
        models.build("simcnn", images, key),
        images.train_x,
        images.train_y,
        parts,
        local=fb.LocalSGD(lr=0.05, batch_size=shape.batch, epochs=1),
    )
    schedule = fb.simulation.Schedule(rounds + 1, per_round=shape.per_round, processes=2)
    return fb.simulation.Federation(task, fb.methods.build(method, settings), schedule, key)


def ours(workload: str, images: data.Data, method: str, settings: dict[str, str], rounds: int) -> list[float]:
    """Wall seconds of each round but the first."""
    ends = [r.seconds for r in federation(workload, images, method, settings, rounds).run().reports]
    return [b - a for a, b in itertools.pairwise(ends)]


def resident_mib(process: str | int) -> float:
    """Of a process in /proc, as the kernel counts it: pages shared with others are counted in each."""
    status = Path(f"/proc/{process}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024


def children() -> list[str]:
    """Numbers of this process's children; a process that another thread started is one, too."""
    return [child for path in Path("/proc/self/task").glob("*/children") for child in path.read_text().split()]


def memory(images: data.Data, rounds: int) -> list[str]:
    """Lines of a table: what is resident after the first and the last round, beside what the clients keep on disk."""
    rows = [
        "| after round | clients seen | parent, MiB | workers, MiB | states on disk, MiB |",
        "|---|---|---|---|---|",
    ]
    run, before = federation("w3", images, "lbgm+topk", {}, rounds - 1), set(children())

    def watch(report: fb.simulation.RoundReport) -> None:
        if report.round not in (1, rounds):
            return
        assert run.server.store is not None
        disk = sum(path.stat().st_size for path in run.server.store.folder.iterdir()) / 2**20
        workers = ", ".join(f"{resident_mib(child):.0f}" for child in children() if child not in before)
        seen = len(run.server.versions)
        rows.append(f"| {report.round} | {seen} | {resident_mib('self'):.0f} | {workers} | {disk:.0f} |")

    run.run(watch)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--memory-rounds", type=int, default=20)
    parser.add_argument("--workloads", nargs="+", default=["w1", "w3"])
    options = parser.parse_args()
    images = data.load("cifar10", options.data_dir)
    # Before all else: what earlier runs have freed would hide what this one takes.
    resident = memory(images, options.memory_rounds) if "w3" in options.workloads else []
    print("| workload | bare loop, s/round | ours | s/round | ratio, median of pairs (all) |\n|---|---|---|---|---|")
    for workload in options.workloads:
        for name, (method, settings) in METHODS.items():
            pairs = []
            for _ in range(options.pairs):
                bare = statistics.median(bare_loop.run(workload, options.data_dir, options.rounds))
                pairs.append((bare, statistics.median(ours(workload, images, method, settings, options.rounds))))
            ratios = sorted(b / a for a, b in pairs)
            print(
                f"| {workload} | {statistics.median(a for a, _ in pairs):.3f} | {name}"
                f" | {statistics.median(b for _, b in pairs):.3f} "
                f"| **{statistics.median(ratios):.2f}** ({', '.join(f'{r:.2f}' for r in ratios)}) |",
                flush=True,
            )
    if resident:
        print("\nMemory, w3, LBGM on top-k on 4 bit on rANS:\n", *resident, sep="\n")
    print(f"\nPeak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
