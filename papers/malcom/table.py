"""The tables of README.md, from the results that run.py left.

python papers/malcom/table.py [--out runs/malcom] [--long runs/malcom-long]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cases import SEEDS, Case, file_name, groups

NODES, MEAN = "accuracy", "mean_accuracy"  # the mean over nodes of each one's own; of the mean of all models
USUAL, BEST = "choco, 8 bit l2, fixed width", "choco, 4 bit, fixed width"  # fixed widths that others are compared with
STEPS = (  # (what a step adds, before it, after it)
    ("the coder", USUAL, "choco, 8 bit l2, golomb"),
    ("the l1 term, mu 1e-05", "choco, 8 bit l2, golomb", "malcom, 8 bit l2, mu 1e-05"),
    ("**both**", USUAL, "malcom, 8 bit l2, mu 1e-05"),
    ("the coder", BEST, "choco, 4 bit, golomb"),
    ("the quantiser", "choco, 4 bit, golomb", "choco, 8 bit l2, golomb"),
    ("the l1 term, mu 1e-05", "choco, 8 bit l2, golomb", "malcom, 8 bit l2, mu 1e-05"),
    ("**all three**", BEST, "malcom, 8 bit l2, mu 1e-05"),
)
Run = dict
Rows = dict[str, list[Run]]  # by the case's name; a run per seed
Target = tuple[str, float]


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/malcom"))
    parser.add_argument("--long", type=Path, default=Path("runs/malcom-long"), help="runs of many rounds")
    options = parser.parse_args()
    found = {name: collect(options.out, cases) for name, cases in groups().items()}
    for title, name in (
        ("MNIST, ring of 10", "ring"),
        ("MNIST, torus of 16", "torus"),
        ("MNIST, ring of 10, a fifth of the nodes inactive in a round", "asleep"),
        ("CIFAR-10, ring of 10", "cifar10"),
    ):
        if found[name]:
            print(f"\n### {title}\n")
            ends(found[name] | (found["mixed"] if name == "ring" else {}), targets(found[name]))
            print("\nWhere it is saved, seed by seed:\n")
            parts(found[name], targets(found[name]))
    print("\n### The consensus step, MNIST\n")
    ring = found["ring"] | found["small gammas"] | found["gammas"]
    consensus({"ring": ring, "torus": found["torus"] | found["torus gammas"]})
    print('\n### Quantisers, gamma="auto", MNIST, ring of 10\n')
    auto = {name: runs for name, runs in found["gammas"].items() if name.endswith("auto")}
    ends(found["quantisers"] | auto, targets(found["ring"]))
    print("\n### A frame's bits over time, MNIST, ring of 10\n")
    over_time(found["ring"] | found["mixed"])
    print()
    over_time(collect(options.long, [*groups()["ring"], *groups()["mixed"]]))


def collect(out: Path, cases: list[Case]) -> Rows:
    """What there is of the cases."""
    return {case.name: runs for case in cases if (runs := load(out, case))}


def load(out: Path, case: Case) -> list[Run]:
    """The case's runs that are there, by seed."""
    paths = [out / f"{file_name(case)}-seed{seed}.json" for seed in SEEDS]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def targets(rows: Rows) -> tuple[Target, ...]:
    """The largest multiples of 5% that all rows came to for all seeds, but for large mu and other gammas."""
    runs = [run for name, runs in rows.items() if "gamma" not in name and "0.001" not in name for run in runs]
    return tuple((field, math.floor(20 * min(max(run[field]) for run in runs) + 1e-9) / 20) for field in (NODES, MEAN))


def to(run: Run, target: Target) -> float | None:
    """Megabytes of frames until that accuracy was first measured, between evaluations in proportion; None: never."""
    before, sent_before, (field, accuracy) = 0.0, 0.0, target
    for found, sent in zip(run[field], run["frame_bytes"], strict=True):
        if found >= accuracy:
            share = (accuracy - before) / (found - before) if found > before else 1.0
            return (sent_before + share * (sent - sent_before)) / 1e6
        before, sent_before = found, sent
    return None


def saved(rows: Rows, before: str, after: str, target: Target) -> list[float]:
    """1 - bytes after / bytes before, in percent, for every seed that has both."""
    old = {run["seed"]: to(run, target) for run in rows.get(before, [])}
    pairs = [(old.get(run["seed"]), to(run, target)) for run in rows.get(after, [])]
    return [100 * (1 - new / was) for was, new in pairs if was and new]


def spread(values: Sequence[float], form: str) -> str:
    """mean +- sample standard deviation, or the one value."""
    if not values:
        return ""
    mean = format(float(np.mean(values)), form)
    return f"{mean} ± {format(float(np.std(values, ddof=1)), form.lstrip('+'))}" if len(values) > 1 else mean


def cell(values: Sequence[float | None]) -> str:
    """Megabytes; how many seeds got there when not all did."""
    there = [value for value in values if value is not None]
    return spread(there, ",.1f") if len(there) == len(values) else f"{len(there)} of {len(values)} got there"


def head(*names: str) -> None:
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")


def megabytes(goals: tuple[Target, ...]) -> list[str]:
    """One column for each target."""
    return [f"MB to {value:.0%}, {'nodes' if field == NODES else 'mean model'}" for field, value in goals]


def ends(rows: Rows, goals: tuple[Target, ...]) -> None:
    """Bytes to an accuracy, and what there is at the end."""
    head("method", "seeds", *megabytes(goals), "nodes, %", "mean model, %", "loss", "zeros", "apart", "kB a frame")
    for name, runs in rows.items():
        cells = [cell([to(run, goal) for run in runs]) for goal in goals]
        cells += [spread([100 * run[field][-1] for run in runs], ".1f") for field in (NODES, MEAN)]
        cells += [spread([run["loss"][-1] for run in runs], ".2f")]
        zeros, apart = (np.mean([run[field][-1] for run in runs]) for field in ("sparsity", "consensus"))
        frames = [run["frame_bytes"][-1] / run["round"][-1] / nodes(run) / (1 - run["asleep"]) / 1e3 for run in runs]
        print(f"| {name} | {len(runs)} | {' | '.join(cells)} | {zeros:.1%} | {apart:.2f} | {np.mean(frames):,.1f} |")


def nodes(run: Run) -> int:
    return int(run["graph"].split()[1])


def parts(rows: Rows, goals: tuple[Target, ...]) -> None:
    """What each step saves of what was left before it."""
    head("from", "step", *(f"saved, %, {what.partition(' to ')[2]}" for what in megabytes(goals)))
    for what, before, after in STEPS:
        if before in rows and after in rows:
            cells = [spread(saved(rows, before, after, goal), ".0f") for goal in goals]
            print(f"| {before} | {what} | {' | '.join(cells)} |")


def consensus(graphs: dict[str, Rows]) -> None:
    """Every gamma, and "auto" against the best of the others."""
    head("graph", "method", "gamma", "seeds", "MB, nodes", "MB, mean model", "nodes, %", "auto against the best, %")
    for graph, tried in graphs.items():
        goals = targets(tried)
        for method in ("choco, 4 bit, golomb", "choco, 8 bit l2, golomb"):
            rows = {name: runs for name, runs in tried.items() if name.startswith(method)}
            for name, runs in sorted(rows.items(), key=lambda row: (row[0].endswith("auto"), row[1][0]["gamma"])):
                auto = name.endswith("auto")
                gammas = ", ".join(sorted({f"{run['gamma']:.2g}" for run in runs}))
                cells = ["auto: " + gammas if auto else gammas, str(len(runs))]
                cells += [cell([to(run, goal) for run in runs]) for goal in goals]
                cells += [spread([100 * run[NODES][-1] for run in runs], ".1f")]
                cells += [", ".join(against_best(rows, name, goal) for goal in goals) if auto else ""]
                print(f"| {graph} | {method} | {' | '.join(cells)} |")


def against_best(rows: Rows, auto: str, target: Target) -> str:
    """How many more bytes "auto" takes than the gamma that takes fewest on average, over the seeds that all have."""
    seeds = set.intersection(*({run["seed"] for run in runs} for runs in rows.values()))
    rows = {name: [run for run in runs if run["seed"] in seeds] for name, runs in rows.items()}
    sent = {name: [to(run, target) or math.inf for run in runs] for name, runs in rows.items() if name != auto}
    best = min(sent, key=lambda name: float(np.mean(sent[name])))
    return spread([-value for value in saved(rows, best, auto, target)], "+.0f")


def over_time(rows: Rows) -> None:
    """Bits of a frame's levels in the first, middle and last evaluated rounds, measured, and over their entropy."""
    head("method", "bits a number, round", " ", "  ", "over the entropy", "over the closed form")
    for name, runs in rows.items():
        if not runs[0]["coded_bits"][-1]:
            continue
        last = len(runs[0]["round"]) - 1
        cells = []
        for i in (0, last // 2, last):
            bits = [run["coded_bits"][i] / nodes(run) / run["numbers"] for run in runs]
            cells.append(f"{runs[0]['round'][i]}: {spread(bits, '.3f')}")
        cells += [over(runs, "entropy_bits"), over(runs, "predicted_bits")]
        print(f"| {name} | {' | '.join(cells)} |")


def over(runs: list[Run], what: str) -> str:
    """How much longer the levels' code was than that, in the last round."""
    more = [100 * (run["coded_bits"][-1] / run[what][-1] - 1) for run in runs if run[what][-1]]
    return f"{np.mean(more):+.2f}%" if more else ""


if __name__ == "__main__":
    main()
