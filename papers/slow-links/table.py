"""The tables of README.md, from the results that run.py left."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from cases import CASES, RANKS, STEPS
from line_seconds import LATENCY, LINES, MBIT, seconds

BASIS = 4 + 4 + 1  # bytes a number of the model: theta0, and the sparse basis' place and sign
Runs = dict[str, dict[int, dict[str, Any]]]  # by case, by seed


def print_tables(folder: Path, model: str, steps: int) -> None:
    """Of all complete runs of a model and so many inner steps whose seed data parallel has, too."""
    found = read(folder, model, steps)
    if "data parallel" not in found:
        print(f"{folder} has no run of data parallel of the model {model} with {steps} steps")
        return
    print_losses(found)
    print_lines(found)


def suffix_of(model: str, steps: int) -> str:
    """What the name of a result says of these."""
    return f"-{model}" * (model != "gpt") + f"-{steps}" * (steps != STEPS)


def read(folder: Path, model: str, steps: int) -> Runs:
    """The runs with the settings of their cases, in the order of the cases."""
    suffix = suffix_of(model, steps)
    found: Runs = {case.name: {} for case in CASES}
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text())
        if run["case"] in found and path.stem.endswith(f"-seed{run['seed']}{suffix}"):
            found[run["case"]][run["seed"]] = run
    base = found["data parallel"]
    both = {name: {seed: run for seed, run in seeds.items() if seed in base} for name, seeds in found.items()}
    return {name: seeds for name, seeds in both.items() if seeds}


def print_losses(found: Runs) -> None:
    """Mean and spread over the seeds; the loss against data parallel's of the same seed."""
    base = found["data parallel"]
    print("| method | seeds | loss | against data parallel | MB a rank sends | times fewer | CPU seconds |")
    print("|---|---|---|---|---|---|---|")
    for name, seeds in found.items():
        worse = [100 * (run["loss"] / base[seed]["loss"] - 1) for seed, run in seeds.items()]
        fewer = [base[seed]["sent"] / run["sent"] for seed, run in seeds.items()]
        print(
            f"| {name} | {len(seeds)} | {spread(values(seeds, 'loss'), '.4f')} | {spread(worse, '+.2f')}% | "
            f"{mean(values(seeds, 'sent')) / 1e6:,.3f} | {spread(fewer, ',.0f')} | "
            f"{mean(values(seeds, 'cpu_seconds')):.0f} |"
        )


def print_lines(found: Runs) -> None:
    """Seconds of whole runs on lines, and memory; means over the seeds."""
    common, inside = common_step(found), {case.name for case in CASES if case.inside}
    basis = BASIS * next(iter(found["data parallel"].values()))["parameters"] / 1e6  # MB
    print(
        f"\nSeconds on lines are computed, for an inner step of {1e3 * common:.1f} ms and {1e3 * LATENCY:g} ms of "
        "latency. All else is measured.\n"
    )
    heads = ["exchanges", "one number alone", "ms of an inner step", "ms of codec an exchange"]
    heads += [f"s at {speed:,} Mbit/s" for speed in MBIT]
    heads += ["MB of state a rank", "MB of the process of four"]
    print(f"| method | {' | '.join(heads)} |")
    print("|---" * (1 + len(heads)) + "|")
    for name, seeds in found.items():
        runs = list(seeds.values())
        cells = [f"{runs[0]['exchanges']:,}", f"{mean(values(seeds, 'silent')):.0f}"]
        cells += [f"{1e3 * mean(step_of(run, common) for run in runs):.1f}"]
        cells += [f"{1e3 * mean(values(seeds, 'codec_seconds')):.1f}"]
        cells += [f"{mean(seconds(run, line, step_of(run, common)) for run in runs):,.0f}" for line in LINES]
        cells += [f"{mean(values(seeds, 'state_bytes')) / 1e6 + basis * (name in inside):,.1f}"]
        cells += [f"{mean(values(seeds, 'largest_memory_bytes')) / 1e6:,.0f}"]
        print(f"| {name} | {' | '.join(cells)} |")


def common_step(found: Runs) -> float:
    """Seconds of an inner step of one rank: the median of all runs whose ranks take the same one."""
    every = [run for seeds in found.values() for run in seeds.values()]
    alike = [run["step_seconds"] for run in every if not run["own_step"]]
    return median(alike or [run["step_seconds"] / RANKS for run in every])


def step_of(run: dict[str, Any], common: float) -> float:
    """The common one; the run's own where ranks train something else than the model by AdamW."""
    return run["step_seconds"] if run["own_step"] and run["case"] != "data parallel" else common


def values(seeds: dict[int, dict[str, Any]], name: str) -> list[float]:
    """A figure of all seeds."""
    return [run[name] for run in seeds.values()]


def spread(found: Iterable[float], form: str) -> str:
    """Mean, and standard deviation where there are several."""
    listed = list(found)
    middle = format(mean(listed), form)
    return f"{middle} ± {format(stdev(listed), form.replace('+', ''))}" if len(listed) > 1 else middle
