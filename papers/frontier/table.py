"""The tables and the pictures of README.md, from the results that run.py left.

python papers/frontier/table.py [--out runs/frontier] [--pictures papers/frontier]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cases import SETTINGS, Setting, cases

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
        for rounds, worse in setting.checks:
            table(runs, setting, rounds, worse)
        if options.pictures:
            draw(runs, setting, options.pictures / f"{name}.png")


def read(folder: Path, setting: str) -> Runs:
    """All results of a task, in the order of the cases."""
    found: Runs = {case.name: {} for case in cases() if case.setting == setting}
    for path in sorted(folder.glob(f"{setting}-*.json")):
        run = json.loads(path.read_text())
        if run["case"] in found:
            found[run["case"]][run["seed"]] = run
    return {name: seeds for name, seeds in found.items() if seeds}


def table(runs: Runs, setting: Setting, rounds: int, worse: float) -> None:
    """Bytes both ways until a run has dense's score after so many rounds, or one so much worse."""
    dense = {seed: (run, run["rounds"].index(rounds)) for seed, run in runs["dense"].items() if rounds in run["rounds"]}
    if not dense:
        return
    score, show = setting.score, shown(setting.score)
    targets = {seed: allowed(score, run[score][i], worse) for seed, (run, i) in dense.items()}
    spent = {seed: total(run, i) for seed, (run, i) in dense.items()}
    print(
        f"Dense after {rounds} rounds: {show([run[score][i] for run, i in dense.values()])} for "
        f"{spread([x / 1e6 for x in spent.values()], '.0f')} MB. To that, {worse:g} "
        f"{'points less' if score == 'accuracy' else 'percent more'}:\n"
    )
    print("| method | seeds | rounds | MB both ways | times fewer | in all its rounds |\n|---|---|---|---|---|---|")
    for name, seeds in runs.items():
        common = [seed for seed in seeds if seed in dense]
        if not common:
            continue
        last = [seeds[seed] for seed in common]
        end = f"{show([run[score][-1] for run in last])}, {megabytes_of(last)} MB"
        at = {seed: first(seeds[seed], score, targets[seed]) for seed in common}
        reached = {seed: i for seed, i in at.items() if i is not None}
        if len(reached) < len(common):
            print(f"| {name} | {len(common)} | {len(reached)} of {len(common)} seeds got there | – | – | {end} |")
            continue
        megabytes = [total(seeds[seed], i) / 1e6 for seed, i in reached.items()]
        times = [spent[seed] / total(seeds[seed], i) for seed, i in reached.items()]
        size = ",.0f" if min(megabytes) >= 100 else ".3g"
        few = ",.0f" if min(times) >= 10 else ".2f"
        taken = spread([seeds[seed]["rounds"][i] for seed, i in reached.items()], ".0f")
        print(f"| {name} | {len(common)} | {taken} | {spread(megabytes, size)} | {spread(times, few)} | {end} |")
    print()


def megabytes_of(runs: list[dict[str, Any]]) -> str:
    """Mean of what whole runs sent, both ways."""
    mean = float(np.mean([total(run, -1) / 1e6 for run in runs]))
    return f"{mean:,.0f}" if mean >= 100 else f"{mean:.3g}"


def allowed(score: str, value: float, worse: float) -> float:
    """An accuracy so many points lower, or a loss so many percent higher."""
    return value - worse / 100 if score == "accuracy" else value * (1 + worse / 100)


def shown(score: str) -> Callable[[list[float]], str]:
    """How a score's values are printed: accuracies as percentages."""
    if score == "accuracy":
        return lambda values: f"{spread([100 * x for x in values], '.1f')}%"
    return lambda values: f"loss {spread(values, '.3f')}"


def first(run: dict[str, Any], score: str, target: float) -> int | None:
    """Where the score first is at the target."""
    better = (lambda x: x >= target) if score == "accuracy" else (lambda x: x <= target)
    return next((i for i, x in enumerate(run[score]) if better(x)), None)


def total(run: dict[str, Any], i: int) -> float:
    """Bytes both ways until then."""
    return run["up"][i] + run["down"][i]


def spread(values: list[float], form: str) -> str:
    """mean ± sample standard deviation, or the one value."""
    mean = format(float(np.mean(values)), form)
    return f"{mean} ± {format(float(np.std(values, ddof=1)), form)}" if len(values) > 1 else mean


def draw(runs: Runs, setting: Setting, path: Path) -> None:
    """The score against bytes both ways, one line for each seed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    scale, words = (100, "test accuracy, %") if setting.score == "accuracy" else (1, "test loss")
    figure, axes = pyplot.subplots(figsize=(8, 5), dpi=110)
    for i, (case, seeds) in enumerate(runs.items()):
        for j, run in enumerate(seeds.values()):
            spent = [total(run, k) / 1e6 for k in range(len(run["rounds"]))]
            label = case if j == 0 else None
            axes.plot(spent, [scale * x for x in run[setting.score]], color=f"C{i}", lw=1.2, alpha=0.8, label=label)
    axes.set(xscale="log", xlabel="MB both ways, all clients", ylabel=words, title=setting.name)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
