"""`auto` within a budget against the best of a grid of fixed choices, on five small tasks that nothing was tuned on.

A fixed choice is a method with its dimension and bits, at a constant learning rate. The grid plays all of them with the
first seed until the budget ends the run. The two best, and what `auto` chooses, are then played with every seed.

    python benchmarks/budget.py --data-dir DIR [--tasks digits mnist] [--seeds 0 1 2] [--out runs/budget.json]

`auto` chooses once, with the first seed, or anew for every seed (`--anew`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fewbits as fb
from budget_tasks import SETTINGS, Setting, task_of
from fewbits.files import write_atomically
from fewbits.training.auto import Choice, choose

MOST = 60  # rounds of a run
RATES = {4: (0.1, 0.3, 1.0), 16: (0.1, 0.3), 64: (0.03, 0.1)}  # by the share of the model's numbers in a subspace
START = 0.1  # the rate that auto is given to begin with


def main() -> None:
    """Play what has no result yet, and print a line for each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="with a folder for each data set")
    parser.add_argument("--tasks", nargs="+", default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--anew", action="store_true", help="choose for every seed")
    parser.add_argument("--out", type=Path, default=Path("runs/budget.json"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results = Results(options.out)
    for name in options.tasks:
        compare(name, options, results)


class Results:
    """Figures by what they are of, in a file; those that are there are not computed again."""

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, json.loads(path.read_text()) if path.exists() else {}

    def once(self, key: str, make) -> dict:
        """The figures of this key."""
        if key not in self.found:
            self.found[key] = make()
            write_atomically(self.path, json.dumps(self.found, indent=0).encode())
            print(f"{key}: {self.found[key]}", flush=True)
        return self.found[key]


def compare(name: str, options: argparse.Namespace, results: Results) -> None:
    """One task."""
    setting = SETTINGS[name]

    def fixed(method: str, lr: float, seed: int) -> dict:
        return results.once(
            f"{name} | {method} | {lr} | {seed}", lambda: play(setting, method, lr, None, seed, options.data_dir)
        )

    def chosen(seed: int) -> dict:
        of = seed if options.anew else options.seeds[0]
        found = results.once(f"{name} | choice | {of}", lambda: choice(setting, of, options.data_dir))
        return results.once(
            f"{name} | auto | {of} | {seed}",
            lambda: play(setting, found["method"], found["lr"], found["falling"], seed, options.data_dir),
        )

    numbers = sum(p.numel() for p in task_of(setting, START, 0, options.data_dir).model.parameters())
    ranked = sorted(grid(numbers), key=lambda one: -fixed(*one, options.seeds[0])["accuracy"])[:2]
    best = max(([fixed(*one, seed) for seed in options.seeds] for one in ranked), key=mean)
    auto = [chosen(seed) for seed in options.seeds]
    spent = [run["bytes"] / setting.budget for run in auto]
    print(
        f"{name}, {numbers:,} numbers, {setting.budget / 1e3:g} kB: auto {show(auto)}, best of the grid {show(best)}: "
        f"{100 * (mean(auto) - mean(best)):+.1f} points; {min(spent):.1%} to {max(spent):.1%} of the budget spent in "
        f"{min(run['rounds'] for run in auto)} to {max(run['rounds'] for run in auto)} rounds of at most {MOST}",
        flush=True,
    )


def grid(numbers: int) -> Iterator[tuple[str, float]]:
    """Fixed choices: methods with their options, and learning rates."""
    for share, rates in RATES.items():
        for bits in (2, 1):
            for lr in rates:
                yield f"intrinsic+deadzone@dim={numbers // share},bits={bits},down=own{bits}", lr
    for lr in (0.1, 0.3, 1.0):
        yield "topk@fraction=0.01,down=own4", lr
        yield "fedpara+topk@fraction=0.01,down=own4", lr


def choice(setting: Setting, seed: int, folder: Path) -> dict:
    """What auto chooses, and the seconds that it takes."""
    began = time.perf_counter()
    found: Choice = choose(task_of(setting, START, seed, folder), schedule(setting), fb.Key(seed))
    seconds = round(time.perf_counter() - began)
    return {"method": found.method, "lr": found.lr, "falling": found.falling, "why": found.why, "seconds": seconds}


def play(setting: Setting, method: str, lr: float, falling: int | None, seed: int, folder: Path) -> dict:
    """One run until its budget ends it."""
    task = task_of(setting, lr, seed, folder)
    task = replace(task, local=replace(task.local, falling=falling))
    reports = fb.simulation.Federation(task, fb.methods.build(method), schedule(setting), fb.Key(seed)).run().reports
    last = reports[-1]
    return {"accuracy": last.accuracy, "rounds": last.round, "bytes": last.up_frame_bytes + last.down_frame_bytes}


def schedule(setting: Setting) -> fb.simulation.Schedule:
    """Evaluated at its end alone."""
    return fb.simulation.Schedule(MOST, setting.per_round, 10**6, processes=1, budget=setting.budget)


def mean(runs: list[dict]) -> float:
    """Of their accuracy."""
    return statistics.mean(run["accuracy"] for run in runs)


def show(runs: list[dict]) -> str:
    """Mean and spread of the accuracy."""
    found = [100 * run["accuracy"] for run in runs]
    spread = f" +- {statistics.stdev(found):.1f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.1f}{spread}%"


if __name__ == "__main__":
    main()
