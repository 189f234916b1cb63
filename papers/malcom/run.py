"""Malcom-PSGD beside DSGD and CHOCO-SGD on slices of MNIST and CIFAR-10: bytes to an accuracy, and where they go.

Campbell, Liu, Woldemariam, Scaglione (arXiv 2311.05760). Every node has two of the ten classes; one SGD step a round.

    python papers/malcom/run.py --data-dir DIR [--out runs/malcom]     # resumes where it was stopped
    python papers/malcom/table.py [--out runs/malcom]                  # the tables of README.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import torch
from torch import nn

import fewbits as fb
from fewbits import data, models
from fewbits.coders.base import Coder
from fewbits.engines.memory.checkpoint import write_atomically

SEEDS, ONE = (0, 1, 2), (0,)
MAIN = ("dsgd, float32", "choco, 4 bit, fixed width", "choco, 8 bit l2, golomb", "malcom, 8 bit l2, mu 1e-05")
TRAIN, TEST, EVERY = 4000, 1000, 10  # examples, examples, rounds between evaluations
FIXED, GOLOMB, RANS = fb.Fixed(), fb.Golomb(), fb.Rans()
FOUR = fb.Quantize(bits=4)  # max-scaled, unbiased: the best for a fixed width that we found
EIGHT = fb.Quantize(bits=8, norm="l2", mode="contractive")  # the paper's norm: most of its levels are zero


@dataclass(frozen=True)
class Case:
    """One row of the tables."""

    name: str
    method: fb.GossipMethod
    graph: str = "ring 10"
    data: str = "mnist"
    inactive: float = 0.0  # share of nodes asleep in a round
    rounds: int = 160
    seeds: tuple[int, ...] = SEEDS


def coded(quantiser: fb.Quantize, coder: Coder) -> fb.Flat:
    return fb.flat(fb.chain(quantiser, coder))


def groups() -> Iterator[list[Case]]:
    """All rows, group by group, those that are worth most first."""
    ring = chain_of_savings()
    yield [case for case in ring if case.seeds == SEEDS]
    yield [replace(case, graph="torus 16") for case in ring if case.seeds == SEEDS and "0.0001" not in case.name]
    yield [replace(case, inactive=0.2) for case in ring if case.name in MAIN]
    yield [
        Case(f"choco, {name}, golomb, gamma {gamma}", fb.Choco(coded(quantiser, GOLOMB), gamma=gamma), graph, seeds=ONE)
        for name, quantiser in (("4 bit", FOUR), ("8 bit l2", EIGHT))
        for graph in ("ring 10", "torus 16")
        for gamma in (0.3, 0.6, "auto")
    ]
    yield [case for case in ring if case.seeds == ONE]
    yield [replace(case, data="cifar10", rounds=240, seeds=ONE) for case in ring if case.name in MAIN]
    yield [replace(malcom(mu, "mixed"), seeds=ONE) for mu in (0.0, 1e-4, 1e-3)]


def chain_of_savings() -> list[Case]:
    """Coder, quantiser, l1 term, one after the other."""
    return [
        Case("dsgd, float32", fb.DSGD()),
        Case("choco, 4 bit, fixed width", fb.Choco(coded(FOUR, FIXED), gamma=0.9)),
        Case("choco, 4 bit, golomb", fb.Choco(coded(FOUR, GOLOMB), gamma=0.9)),
        Case("choco, 8 bit l2, golomb", fb.Choco(coded(EIGHT, GOLOMB), gamma=0.9)),
        malcom(1e-5),
        malcom(1e-4),
        replace(malcom(1e-3), seeds=ONE),
        Case("choco, 8 bit l2, fixed width", fb.Choco(coded(EIGHT, FIXED), gamma=0.9), seeds=ONE),
        Case("choco, 8 bit l2, rans", fb.Choco(coded(EIGHT, RANS), gamma=0.9), seeds=ONE),
    ]


def malcom(mu: float, position: str = "half") -> Case:
    name = f"malcom, 8 bit l2, mu {mu:g}" + (", sends after consensus" if position == "mixed" else "")
    return Case(name, fb.Malcom(coded(EIGHT, GOLOMB), gamma=0.9, regulariser=fb.L1(mu), position=position))


def main() -> None:
    """Run every case for every seed that has no result yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/malcom"))
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for group in groups():
        for seed, case in product(SEEDS, group):
            path = options.out / f"{file_name(case)}-seed{seed}.json"
            if options.only in case.name and seed in case.seeds and not path.exists():
                result = play(case, seed, options)
                write_atomically(path, json.dumps(result).encode())
                print(
                    f"{case.data} {case.graph:8s} {case.name:42s} seed {seed}: nodes {result['accuracy'][-1]:.4f}, "
                    f"mean {result['mean_accuracy'][-1]:.4f}, loss {result['loss'][-1]:.4f}, "
                    f"{result['frame_bytes'][-1] / 1e6:9.3f} MB, {result['seconds'][-1]:.0f} s",
                    flush=True,
                )


def file_name(case: Case) -> str:
    whole = f"{case.data} {case.graph} inactive {case.inactive:g} {case.name}"
    return whole.replace(" ", "_").replace(",", "")


def play(case: Case, seed: int, options: argparse.Namespace) -> dict:
    """One run; its curve."""
    key = fb.Key(seed)
    name, n = case.graph.split()
    graph: fb.topology.Topology = getattr(fb.topology, name)(int(n))
    network = fb.topology.Sleepy(graph, case.inactive, key.fold("inactive")) if case.inactive else graph
    task = task_of(case, graph.n, key, options.data_dir)
    schedule = fb.Schedule(case.rounds, processes=options.processes, evaluate_every=EVERY)
    run = fb.GossipRun(task, case.method, network, schedule, key)
    reports = [r for r in run.run().reports if r.accuracy is not None]
    curve = {field: [getattr(r, field) for r in reports] for field in asdict(reports[0]) if field != "accuracies"}
    assert not isinstance(run.method.gamma, str)
    labels = {"case": case.name, "graph": case.graph, "data": case.data, "seed": seed}
    return labels | {"gamma": run.method.gamma, "numbers": len(run.flat.shared)} | curve


def task_of(case: Case, nodes: int, key: fb.Key, data_dir: str) -> fb.Task:
    """Two classes a node; the first images of each set, CIFAR-10's at half their side."""
    found = data.load(case.data, data_dir, limit=TRAIN)
    if case.data == "cifar10":
        found = replace(found, train_x=half(found.train_x), test_x=half(found.test_x))
    parts = data.partition(found.train_y, "classes:2", nodes, key.fold("partition"))
    model = models.build("mlp" if case.data == "mnist" else "simcnn", found, key.fold("model"))
    local = fb.LocalSGD(lr=0.1 if case.data == "mnist" else 0.05, batch_size=32, steps=1)
    return fb.Task(model, found.train_x, found.train_y, parts, found.test_x[:TEST], found.test_y[:TEST], local)


def half(x: torch.Tensor) -> torch.Tensor:
    """Images at half their side, so that a step costs a quarter.  # (n, 3, 32, 32) uint8 -> (n, 3, 16, 16) uint8"""
    small = nn.functional.avg_pool2d(x.float(), 2).round().to(torch.uint8)
    return small.contiguous(memory_format=torch.channels_last)


if __name__ == "__main__":
    main()
