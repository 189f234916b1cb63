"""Accuracy against bytes both ways, at the frontier: local steps inside a random subspace, few bits, few numbers.

MNIST in 100 shares of three classes and CIFAR-10 by Dirichlet 0.5, all training and test examples, ten clients a round,
one epoch in batches of 20. Every byte is that of a real frame.

    python papers/frontier/run.py --data-dir DIR [--out runs/frontier]     # resumes where it was stopped
    python papers/frontier/run.py --data-dir DIR --try METHOD --lr 0.1     # another method, with a seed of its own
    python papers/frontier/table.py [--out runs/frontier]                  # the tables and pictures of README.md
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path

from cases import SETTINGS, Case, Setting, cases
from torch import nn

import fewbits as fb
from fewbits import data, models
from fewbits.files import write_atomically

TRIED = 9  # the seed of the tuning


def main() -> None:
    """Run every case for every seed that has no result yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="with a folder for each data set")
    parser.add_argument("--out", type=Path, default=Path("runs/frontier"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS))
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--at-most", type=int, default=10**9, help="rounds of each case, for a shorter look")
    parser.add_argument("--try", dest="tried", default="", help="a method as text, in place of the cases")
    parser.add_argument("--lr", type=float, default=0.1, help="with --try")
    parser.add_argument("--rounds", type=int, default=40, help="with --try")
    parser.add_argument("--falling", type=int, help="with --try: rounds over which the rate falls")
    parser.add_argument("--end-factor", type=float, default=0.1, help="with --try and --falling: to this part")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    wanted, seeds = [case for case in cases() if case.setting in options.settings], options.seeds
    if options.tried:
        end = f" to {options.end_factor:g}" if options.end_factor != Case.end_factor else ""
        name = f"{options.tried} at {options.lr:g}{f' falling {options.falling}' if options.falling else ''}{end}"
        tried = options.tried, options.lr, options.rounds, options.falling, options.end_factor
        wanted, seeds = [Case(setting, name, *tried) for setting in options.settings], [TRIED]
    for seed in seeds:
        for case in [case for case in wanted if options.only in case.name]:
            once(case, seed, options)


def once(case: Case, seed: int, options: argparse.Namespace) -> None:
    """One run, unless its result is there."""
    folder = options.out / ("tuning" if options.tried else "")
    folder.mkdir(parents=True, exist_ok=True)
    words = "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in case.name)
    path = folder / f"{case.setting}-{words}-seed{seed}.json"
    if path.exists():
        return
    result = play(case, seed, options)
    write_atomically(path, json.dumps(result).encode())
    up, down = result["up"][-1] / 1e6, result["down"][-1] / 1e6
    late = sum(result["accuracy"][-5:]) / len(result["accuracy"][-5:])
    print(
        f"{case.setting:12s} {case.name:60s} seed {seed}: accuracy {result['accuracy'][-1]:.4f} (last five "
        f"{late:.4f}; loss {result['loss'][-1]:.4f}), up {up:.3f} MB, down {down:.3f} MB, {result['seconds']:.0f} s",
        flush=True,
    )


def play(case: Case, seed: int, options: argparse.Namespace) -> dict:
    """One run; its curve."""
    key, setting = fb.Key(seed), SETTINGS[case.setting]
    local = fb.LocalSGD(lr=case.lr, batch_size=setting.batch_size, falling=case.falling, end_factor=case.end_factor)
    task = task_of(setting, local, key, options.data_dir)
    size = sum(p.numel() for p in task.model.parameters())
    schedule = fb.simulation.Schedule(
        min(case.rounds, options.at_most), setting.per_round, evaluate_every=setting.every, processes=options.processes
    )
    federation = fb.simulation.Federation(task, fb.methods.build(case.method), schedule, key)
    reports = federation.run().reports
    seen = [report for report in reports if report.accuracy is not None]
    return {
        "case": case.name,
        "setting": case.setting,
        "method": case.method,
        "lr": case.lr,
        "falling": case.falling,
        "end_factor": case.end_factor,
        "seed": seed,
        "parameters": size,
        "rounds": [r.round for r in seen],
        "accuracy": [r.accuracy for r in seen],
        "loss": [r.loss for r in seen],
        "up": [r.up_frame_bytes for r in seen],
        "down": [r.down_frame_bytes for r in seen],
        "seconds": reports[-1].seconds,
    }


def task_of(setting: Setting, local: fb.LocalSGD, key: fb.Key, folder: Path) -> fb.simulation.Task:
    """All clients with all of their examples. Everybody makes the initial model from the seed."""
    found = load(setting.data, folder / (setting.folder or setting.data))

    def build(key: fb.Key) -> nn.Module:
        return models.build(setting.model, found, key.fold("model"))

    return fb.simulation.Task(
        build(key),
        found.train_x,
        found.train_y,
        data.partition(found.train_y, setting.split, setting.clients, key.fold("partition"), found.groups),
        found.test_x,
        found.test_y,
        local,
        seed=key,
        build=build,
    )


@cache
def load(name: str, folder: Path) -> data.Data:
    """A data set from its folder."""
    return data.load(name, folder)


if __name__ == "__main__":
    main()
