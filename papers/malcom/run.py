"""Malcom-PSGD beside DSGD and CHOCO-SGD on slices of MNIST and CIFAR-10: bytes to an accuracy, and where they go.

Campbell, Liu, Woldemariam, Scaglione (arXiv 2311.05760). Every node has two of the ten classes; one SGD step a round.

    python papers/malcom/run.py --data-dir DIR [--out runs/malcom]     # resumes where it was stopped
    python papers/malcom/run.py --data-dir DIR --out runs/malcom-long --only "mu 0.0001" --rounds 1600 --seeds 0
    python papers/malcom/table.py [--out runs/malcom]                  # the tables of README.md
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from functools import cache
from itertools import product
from pathlib import Path

import torch
from cases import SEEDS, SETTINGS, Case, file_name, groups
from torch import nn

import fewbits as fb
from fewbits import data, models
from fewbits.files import write_atomically

TEST = 1000  # images


def main() -> None:
    """Run every case for every seed that has no result yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/malcom"))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--rounds", type=int, help="instead of each setting's")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for group in groups().values():
        for seed, case in product(options.seeds, group):
            path = options.out / f"{file_name(case)}-seed{seed}.json"
            if options.only in case.name and not path.exists():
                result = play(case, seed, options)
                write_atomically(path, json.dumps(result).encode())
                print(
                    f"{case.data} {case.graph:8s} {case.name:42s} seed {seed}: nodes {result['accuracy'][-1]:.4f}, "
                    f"mean {result['mean_accuracy'][-1]:.4f}, loss {result['loss'][-1]:.4f}, "
                    f"{result['frame_bytes'][-1] / 1e6:9.3f} MB, {result['seconds'][-1]:.0f} s",
                    flush=True,
                )


def play(case: Case, seed: int, options: argparse.Namespace) -> dict:
    """One run; its curve."""
    key, setting = fb.Key(seed), SETTINGS[case.data]
    name, n = case.graph.split()
    graph: fb.topology.Topology = getattr(fb.topology, name)(int(n))
    network = fb.topology.IntermittentNodes(graph, case.inactive, key.fold("inactive")) if case.inactive else graph
    task = task_of(case.data, graph.n, key, options.data_dir)
    schedule = fb.simulation.Schedule(
        options.rounds or setting.rounds, processes=options.processes, evaluate_every=setting.every
    )
    run = fb.simulation.GossipRun(task, case.method, network, schedule, key)
    reports = [r for r in run.run().reports if r.accuracy is not None]
    curve = {field: [getattr(r, field) for r in reports] for field in asdict(reports[0]) if field != "accuracies"}
    assert not isinstance(run.method.gamma, str)
    labels = {"case": case.name, "graph": case.graph, "data": case.data, "asleep": case.inactive, "seed": seed}
    return labels | {"gamma": run.method.gamma, "numbers": len(run.flat.shared)} | curve


def task_of(name: str, nodes: int, key: fb.Key, data_dir: str) -> fb.simulation.Task:
    """Two classes a node; the first images of each set, CIFAR-10's made smaller."""
    setting, found = SETTINGS[name], images(name, data_dir)
    parts = data.partition(found.train_y, "classes:2", nodes, key.fold("partition"))
    model = models.build("mlp", found, key.fold("model"))
    local = fb.LocalSGD(lr=setting.rate, batch_size=32, steps=1)
    return fb.simulation.Task(
        model, found.train_x, found.train_y, parts, found.test_x[:TEST], found.test_y[:TEST], local
    )


@cache
def images(name: str, data_dir: str) -> data.Data:
    found = data.load(name, data_dir, limit=SETTINGS[name].examples)
    small = {part: shrink(getattr(found, part), SETTINGS[name].side) for part in ("train_x", "test_x")}
    return replace(found, **small)


def shrink(x: torch.Tensor, side: int) -> torch.Tensor:
    """Means over squares of pixels.  # (n, channels, height, height) uint8 -> (n, channels, side, side) uint8"""
    if x.shape[-1] == side:
        return x
    small = nn.functional.avg_pool2d(x.float(), x.shape[-1] // side).round().to(torch.uint8)
    return small.contiguous(memory_format=torch.channels_last)


if __name__ == "__main__":
    main()
