"""Processor time of a client: rounds of the bare loop and of the engine `simulation` in turn, one process, one thread.

    python benchmarks/turns.py --data-dir DIR [--workloads w3 w1] [--methods dense lbgm+topk topk] [--rounds 12]

For machines on which other work runs, too: wall time says nothing there. Both parties are slowed alike by what happens
in the round, so ratios are taken round by round. One process has no pipes and no copy into shared memory.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

import bare_loop
import fewbits as fb
from fewbits import data, models
from simulation import federation


def bare(work: bare_loop.Workload, images: data.Data) -> Iterator[None]:
    """A round of the bare loop at each `next`."""
    module = models.build("simcnn", images, fb.Key(0))
    flat, grads = bare_loop.flatten(module)
    weights, total = flat.clone(), torch.zeros_like(flat)
    x, y = bare_loop.channels_last(images), images.train_y
    rows = torch.randperm(len(y))[: work.clients * work.examples].view(work.clients, -1)
    while True:
        total.zero_()
        for client in torch.randperm(work.clients)[: work.per_round].tolist():
            flat.copy_(weights)
            bare_loop.train(module, flat, grads, x, y, rows[client], work)
            total.add_(flat).sub_(weights)
        weights.add_(total, alpha=1 / work.per_round)
        yield


def milliseconds(rounds: Iterator[Any], clients: int) -> float:
    """Processor time of one client in the next round."""
    began = time.process_time()
    next(rounds)
    return (time.process_time() - began) / clients * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--workloads", nargs="+", default=["w3", "w1"])
    parser.add_argument("--methods", nargs="+", default=["dense", "lbgm+topk", "topk"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = data.load("cifar10", options.data_dir)
    print("| workload | method | bare loop, ms/client | ours | ratio, median (quartiles) |\n|---|---|---|---|---|")
    for workload in options.workloads:
        work = bare_loop.WORKLOADS[workload]
        for method in options.methods:
            run = federation(workload, images, method, {}, options.rounds + 1)
            run.schedule = replace(run.schedule, processes=1)
            theirs, ours = bare(work, images), iter(run)
            for rounds in (theirs, ours):
                milliseconds(rounds, work.per_round)  # the first round warms up
            pairs = [[milliseconds(party, work.per_round) for party in (theirs, ours)] for _ in range(options.rounds)]
            low, middle, high = statistics.quantiles([b / a for a, b in pairs], n=4)
            times = " | ".join(f"{statistics.median(column):.2f}" for column in zip(*pairs, strict=True))
            print(f"| {workload} | {method} | {times} | **{middle:.2f}** ({low:.2f}, {high:.2f}) |", flush=True)


if __name__ == "__main__":
    main()
