"""The tables of README.md, from the results that run.py left.

python papers/malcom/table.py [--out runs/malcom]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

NODES, MEAN = "accuracy", "mean_accuracy"  # the mean over nodes of each one's own; of the mean of all models
TARGETS = {"mnist": ((NODES, 0.5), (MEAN, 0.8)), "cifar10": ((NODES, 0.2), (MEAN, 0.3))}
FIXED = "choco, 4 bit, fixed width"  # what others are compared with
Run = dict
Target = tuple[str, float]


def spread(values: list[float], form: str) -> str:
    """mean +- sample standard deviation, or the one value."""
    mean = format(float(np.mean(values)), form)
    return f"{mean} ± {format(float(np.std(values, ddof=1)), form)}" if len(values) > 1 else mean


def to(run: Run, target: Target) -> float | None:
    """Megabytes of frames until that accuracy was first measured, between evaluations in proportion; None: never."""
    before, sent_before, (field, accuracy) = 0.0, 0.0, target
    for found, sent in zip(run[field], run["frame_bytes"], strict=True):
        if found >= accuracy:
            share = (accuracy - before) / (found - before) if found > before else 1.0
            return (sent_before + share * (sent - sent_before)) / 1e6
        before, sent_before = found, sent
    return None


def named(target: Target) -> str:
    return f"{target[1]:.0%}, {'nodes' if target[0] == NODES else 'mean model'}"


def group(runs: list[Run], keep: Callable[[Run], bool]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        if keep(run):
            found.setdefault(run["case"], []).append(run)
    return found


def cell(values: list[float | None], form: str = ",.1f") -> str:
    there = [value for value in values if value is not None]
    return spread(there, form) if there and len(there) == len(values) else f"{len(there)} of {len(values)} got there"


def savings(found: dict[str, list[Run]], targets: tuple[Target, ...]) -> None:
    """Bytes to an accuracy and the saving against CHOCO at a fixed width, seed by seed."""
    heads = " | ".join(f"MB to {named(t)} | saved" for t in targets)
    print(f"| method | seeds | {heads} | nodes, % | mean model, % | loss | zeros | apart | kB a frame |")
    print("|---|---|" + "---|---|" * len(targets) + "---|---|---|---|---|---|")
    base = {run["seed"]: run for run in found.get(FIXED, [])}
    for name, runs in found.items():
        cells = []
        for target in targets:
            sent = [to(run, target) for run in runs]
            pairs = [
                (mine, to(base[run["seed"]], target))
                for mine, run in zip(sent, runs, strict=True)
                if run["seed"] in base
            ]
            saved = [1 - mine / theirs for mine, theirs in pairs if mine and theirs]
            cells += [cell(sent), f"{100 * float(np.mean(saved)):.0f}%" if len(saved) == len(runs) else ""]
        frames = [run["frame_bytes"][-1] / run["round"][-1] / nodes(run) / (1 - asleep(run)) / 1e3 for run in runs]
        print(
            f"| {name} | {len(runs)} | {' | '.join(cells)} | {spread([100 * r['accuracy'][-1] for r in runs], '.1f')} "
            f"| {spread([100 * r['mean_accuracy'][-1] for r in runs], '.1f')} "
            f"| {spread([r['loss'][-1] for r in runs], '.2f')} "
            f"| {np.mean([r['sparsity'][-1] for r in runs]):.1%} | {np.mean([r['consensus'][-1] for r in runs]):.2f} "
            f"| {np.mean(frames):,.1f} |"
        )


def nodes(run: Run) -> int:
    return int(run["graph"].split()[1])


def asleep(run: Run) -> float:
    """The share of nodes that slept, to a tenth."""
    return round(float(np.mean(run["inactive"])) / nodes(run), 1)


def over_time(found: dict[str, list[Run]]) -> None:
    """Bits of a frame's levels in the first, middle and last evaluated rounds, measured, and over their entropy."""
    print("| method | bits a number, round | | | over the entropy | over the closed form |")
    print("|---|---|---|---|---|---|")
    for name, runs in found.items():
        runs = [run for run in runs if run["coded_bits"][-1]]
        if not runs:
            continue
        last = len(runs[0]["round"]) - 1
        cells = []
        for i in (0, last // 2, last):
            bits = [r["coded_bits"][i] / nodes(r) / r["numbers"] for r in runs]
            cells.append(f"{runs[0]['round'][i]}: {np.mean(bits):.3f}")
        entropy = [100 * (r["coded_bits"][last] / r["entropy_bits"][last] - 1) for r in runs]
        closed = [
            100 * (r["coded_bits"][last] / r["predicted_bits"][last] - 1) for r in runs if r["predicted_bits"][last]
        ]
        shown = f"{np.mean(closed):+.2f}%" if closed else ""
        print(f"| {name} | {' | '.join(cells)} | {np.mean(entropy):+.2f}% | {shown} |")


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/malcom"))
    options = parser.parse_args()
    runs = [json.loads(path.read_text()) for path in sorted(options.out.glob("*.json"))]
    order = ["dsgd", "choco, 4", "choco, 8", "malcom"]
    runs.sort(key=lambda run: (next(i for i, start in enumerate(order) if run["case"].startswith(start)), run["seed"]))
    for data, graph, inactive in sorted({(r["data"], r["graph"], asleep(r)) for r in runs}, reverse=True):
        here = [r for r in runs if (r["data"], r["graph"], asleep(r)) == (data, graph, inactive)]
        found = group(here, lambda run: "gamma" not in run["case"])
        print(f"\n### {data}, {graph}" + (f", {inactive:.0%} asleep in a round" if inactive else "") + "\n")
        if found:
            savings(found, TARGETS[data])
        tried = group(here, lambda run: "gamma" in run["case"])
        if tried:
            print("\nThe consensus step:\n")
            print(f"| method | gamma | {' | '.join(f'MB to {named(t)}' for t in TARGETS[data])} | nodes, % |")
            print("|---|---|" + "---|" * len(TARGETS[data]) + "---|")
            for name, tests in sorted((tried | {k: v for k, v in found.items() if "golomb" in k}).items()):
                tests = [run for run in tests if run["seed"] == 0]
                cells = " | ".join(cell([to(run, t) for run in tests]) for t in TARGETS[data])
                print(f"| {name} | {tests[0]['gamma']:.3g} | {cells} | {100 * tests[0]['accuracy'][-1]:.1f} |")
    print("\n### Over time, mnist, ring 10\n")
    over_time(
        group(
            runs,
            lambda r: (r["data"], r["graph"], asleep(r)) == ("mnist", "ring 10", 0.0) and "gamma" not in r["case"],
        )
    )


if __name__ == "__main__":
    main()
