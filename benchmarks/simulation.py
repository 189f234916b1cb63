"""Seconds per round of the engine `memory` against the best bare hand-written loop, same model, data and steps.

    python benchmarks/simulation.py --data-dir DIR [--rounds 6] [--pairs 3] [--workloads w1 w3]

The bare loop (bare_loop.py) sums floats in memory: no encoding, no frames, no ledger. Runs alternate, so that a
machine whose speed drifts slows both; the ratio is taken pair by pair and its median is quoted.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics

import bare_loop
import fewbits as fb
from fewbits import data, models

METHODS = {
    "dense frames": ("dense", {}),
    "LBGM on top-k on 4 bit on rANS": ("lbgm+topk", {}),
    "top-k + error feedback, 4 bit, rANS": ("topk", {}),
}


def ours(workload: str, images: data.Data, method: str, settings: dict[str, str], rounds: int) -> list[float]:
    """Wall seconds of each round but the first, in which processes start and kernels load."""
    shape = bare_loop.WORKLOADS[workload]
    key = fb.Key(0)
    parts = data.partition(images.train_y, "iid", shape.clients, key.fold("partition"))
    parts = [part[: shape.examples] for part in parts]
    task = fb.Task(
        models.build("simcnn", images, key),
        images.train_x,
        images.train_y,
        parts,
        local=fb.LocalSGD(lr=0.05, batch_size=shape.batch, epochs=1),
    )
    schedule = fb.Schedule(rounds + 1, per_round=shape.per_round, processes=2)
    reports = fb.Federation(task, fb.methods.build(method, settings), schedule, key).run().reports
    ends = [r.seconds for r in reports]
    return [b - a for a, b in itertools.pairwise(ends)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--workloads", nargs="+", default=["w1", "w3"])
    options = parser.parse_args()
    images = data.load("cifar10", options.data_dir)
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
    print(f"\nPeak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
