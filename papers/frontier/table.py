"""The tables and the pictures of README.md, from the results that run.py left.

python papers/frontier/table.py [--out runs/frontier] [--pictures papers/frontier]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from cases import SETTINGS, cases

Runs = dict[str, dict[int, dict[str, Any]]]  # by case, by seed


def main() -> None:
    """Print one table for each task; draw its picture where a folder is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/frontier"))
    parser.add_argument("--pictures", type=Path, help="folder for the pictures")
    options = parser.parse_args()
    for name, setting in SETTINGS.items():
        runs = read(options.out, name)
        if "dense" not in runs:
            continue
        print(f"\n### {name}\n")
        for rounds, less in setting.checks:
            table(runs, rounds, less)
        if options.pictures:
            draw(runs, name, options.pictures / f"{name}.png")


def read(folder: Path, setting: str) -> Runs:
    """All results of a task, in the order of the cases."""
    found: Runs = {case.name: {} for case in cases() if case.setting == setting}
    for path in sorted(folder.glob(f"{setting}-*.json")):
        run = json.loads(path.read_text())
        if run["case"] in found:
            found[run["case"]][run["seed"]] = run
    return {name: seeds for name, seeds in found.items() if seeds}


def table(runs: Runs, rounds: int, less: float) -> None:
    """Bytes both ways until a run has dense's accuracy after so many rounds, less so many points."""
    dense = {seed: run for seed, run in runs["dense"].items() if len(run["accuracy"]) >= rounds}
    if not dense:
        return
    targets = {seed: run["accuracy"][rounds - 1] - less / 100 for seed, run in dense.items()}
    spent = {seed: total(run, rounds - 1) for seed, run in dense.items()}
    print(
        f"Dense after {rounds} rounds: {spread([100 * run['accuracy'][rounds - 1] for run in dense.values()], '.1f')}% "
        f"for {spread([x / 1e6 for x in spent.values()], '.0f')} MB. To that less {less:g} points:\n"
    )
    print("| method | seeds | rounds | MB both ways | times fewer |\n|---|---|---|---|---|")
    for name, seeds in runs.items():
        common = [seed for seed in seeds if seed in dense]
        at = {seed: first(seeds[seed], targets[seed]) for seed in common}
        reached = {seed: i for seed, i in at.items() if i is not None}
        if not common:
            continue
        if len(reached) < len(common):
            best = spread([100 * max(seeds[seed]["accuracy"]) for seed in common], ".1f")
            print(f"| {name} | {len(common)} | {len(reached)} of {len(common)} seeds got there; best {best}% | – | – |")
            continue
        megabytes = [total(seeds[seed], i) / 1e6 for seed, i in reached.items()]
        times = [spent[seed] / total(seeds[seed], i) for seed, i in reached.items()]
        taken = spread([seeds[seed]["rounds"][i] for seed, i in reached.items()], ".0f")
        print(f"| {name} | {len(common)} | {taken} | {spread(megabytes, '.3g')} | {spread(times, ',.0f')} |")
    print()


def first(run: dict[str, Any], target: float) -> int | None:
    """Where the accuracy first is at the target."""
    return next((i for i, x in enumerate(run["accuracy"]) if x >= target), None)


def total(run: dict[str, Any], i: int) -> float:
    """Bytes both ways until then."""
    return run["up"][i] + run["down"][i]


def spread(values: list[float], form: str) -> str:
    """mean ± sample standard deviation, or the one value."""
    mean = format(float(np.mean(values)), form)
    return f"{mean} ± {format(float(np.std(values, ddof=1)), form)}" if len(values) > 1 else mean


def draw(runs: Runs, name: str, path: Path) -> None:
    """Accuracy against bytes both ways, one line for each seed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), dpi=110)
    for i, (case, seeds) in enumerate(runs.items()):
        for j, run in enumerate(seeds.values()):
            spent = [total(run, k) / 1e6 for k in range(len(run["rounds"]))]
            label = case if j == 0 else None
            axes.plot(spent, [100 * x for x in run["accuracy"]], color=f"C{i}", lw=1.2, alpha=0.8, label=label)
    axes.set(xscale="log", xlabel="MB both ways, all clients", ylabel="test accuracy, %", title=name)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
