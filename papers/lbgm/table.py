"""The tables of README.md, from the results that run.py left.

python papers/lbgm/table.py [--out runs/lbgm]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from run import cases

BUDGETS = (3e6, 10e6, 30e6, 100e6, 300e6, 1e9)  # bytes of uplink, all workers together


def spread(values: list[float], form: str) -> str:
    """mean +- sample standard deviation, or the one value."""
    mean = format(float(np.mean(values)), form)
    return f"{mean} ± {format(float(np.std(values, ddof=1)), form)}" if len(values) > 1 else mean


def best_within(run: dict, budget: float) -> float | None:
    """Accuracy at the last evaluation before the uplink passed the budget."""
    reached = [a for a, b in zip(run["accuracy"], run["up"], strict=True) if b <= budget]
    return reached[-1] if reached else None


def main() -> None:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/lbgm"))
    options = parser.parse_args()
    found: dict[str, list[dict]] = {}
    for path in sorted(options.out.glob("*.json")):
        run = json.loads(path.read_text())
        found.setdefault(run["case"], []).append(run)
    names = [case.name for case in cases() if case.name in found]
    dense = float(np.mean([run["up"][-1] for run in found["fedavg"]]))
    print("| method | seeds | accuracy, % | uplink, MB | × fewer | recycled, % | max ‖g/τ‖² sin² recycled |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        runs = found[name]
        up = float(np.mean([run["up"][-1] for run in runs]))
        floors = [run["floor"] for run in runs if run["floor"] is not None]
        recycles = name.startswith(("lbgm", "predict"))
        recycled = spread([100 * run["recycled"] for run in runs], ".1f") if recycles else "–"
        floor = f"{max(floors):.3g}" if floors else "–"
        accuracy = spread([100 * run["accuracy"][-1] for run in runs], ".2f")
        print(f"| {name} | {len(runs)} | {accuracy} | {up / 1e6:,.2f} | {dense / up:,.1f} | {recycled} | {floor} |")
    print("\n| accuracy, % within an uplink of | " + " | ".join(f"{b / 1e6:,.0f} MB" for b in BUDGETS) + " |")
    print("|---|" + "---|" * len(BUDGETS))
    for name in names:
        cells = []
        for budget in BUDGETS:
            within = [best_within(run, budget) for run in found[name]]
            seen = [100 * a for a in within if a is not None]
            cells.append(spread(seen, ".1f") if len(seen) == len(within) else "")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
