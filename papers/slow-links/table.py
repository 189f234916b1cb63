"""The tables of README.md, from the results that run.py left."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cases import CASES, RANKS, STEPS
from line_seconds import LATENCY, LINES, MBIT, seconds

Runs = dict[str, dict[int, dict[str, Any]]]  # by case, by seed


def print_tables(folder: Path, steps: int) -> None:
    """Of all complete runs of so many inner steps whose seed data parallel has, too."""
    found = read(folder, steps)
    if "data parallel" not in found:
        print(f"{folder} has no run of data parallel with {steps} steps")
        return
    print_losses(found)
    print_lines(found)


def read(folder: Path, steps: int) -> Runs:
    """The runs with the settings of their cases, in the order of the cases."""
    suffix = f"-{steps}" * (steps != STEPS)
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
            f"{statistics.mean(values(seeds, 'sent')) / 1e6:,.3f} | {spread(fewer, ',.0f')} | "
            f"{statistics.mean(values(seeds, 'cpu_seconds')):.0f} |"
        )


def print_lines(found: Runs) -> None:
    """Hours on lines, and memory; means over the seeds."""
    compute = common_step(found)
    print(
        f"\nHours are computed, for an inner step of {1e3 * compute:.1f} ms (measured) and {1e3 * LATENCY:g} ms of "
        "latency. Memory is measured.\n"
    )
    heads = [f"h at {speed:,} Mbit/s" for speed in MBIT]
    heads += ["computing, h", "codec, ms an exchange", "state of a rank, MB", "process of four, MB"]
    print(f"| method | exchanges | {' | '.join(heads)} |")
    print("|---" * (2 + len(heads)) + "|")
    for name, seeds in found.items():
        runs = list(seeds.values())
        steps = [step_of(run, compute) for run in runs]
        hours = [
            statistics.mean(seconds(run, line, step) / 3600 for run, step in zip(runs, steps, strict=True))
            for line in LINES
        ]
        cells = [f"{x:.3g}" for x in hours]
        cells.append(f"{statistics.mean(steps) * runs[0]['steps'] / 3600:.3g}")
        cells.append(f"{1e3 * statistics.mean(values(seeds, 'codec_seconds')):.1f}")
        cells += [
            f"{statistics.mean(values(seeds, key)) / 1e6:,.1f}" for key in ("state_bytes", "largest_memory_bytes")
        ]
        print(f"| {name} | {runs[0]['exchanges']:,} | {' | '.join(cells)} |")


def common_step(found: Runs) -> float:
    """Seconds of an inner step of one rank: the median of all runs whose ranks take the same one."""
    every = [run for seeds in found.values() for run in seeds.values()]
    alike = [run["step_seconds"] for run in every if not run["own_step"]]
    return statistics.median(alike or [run["step_seconds"] / RANKS for run in every])


def step_of(run: dict[str, Any], common: float) -> float:
    """The common one; the run's own where ranks train something else than the model by AdamW."""
    return run["step_seconds"] if run["own_step"] and run["case"] != "data parallel" else common


def values(seeds: dict[int, dict[str, Any]], name: str) -> list[float]:
    """A figure of all seeds."""
    return [run[name] for run in seeds.values()]


def spread(found: Iterable[float], form: str) -> str:
    """Mean, and standard deviation where there are several."""
    listed = list(found)
    mean = format(statistics.mean(listed), form)
    return f"{mean} ± {format(statistics.stdev(listed), form.replace('+', ''))}" if len(listed) > 1 else mean
