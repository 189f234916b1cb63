"""LBGM where updates repeat the most: five silos, all in every round, many full-batch steps at a small rate.

Digits by Dirichlet 0.5. All methods learn at .1 until they have 95% twice in a row. An update is that of 20 steps of
gradient descent without noise: what turns its direction is the loss alone.

    python papers/lbgm/silo.py [--seeds 0 1 2] [--out runs/lbgm/silo.json]     # resumes where it was stopped
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch

import fewbits as fb
from fewbits import data, models
from fewbits.files import write_atomically

TARGET = 0.95
SILOS, STEPS, LR = 5, 20, 0.1
EXAMPLES = 1437  # that are shared; one less than there are
MOST = 60  # rounds of a run
INSIDE = "dim=600,down=own1"  # of 9,610 numbers
METHODS = {
    "dense": "dense@down=own4",
    "top-k 1%": "topk@fraction=0.01,down=own1",
    "ternary": "deadzone@bits=1,down=own1",
    "lbgm .2": "lbgm@threshold=0.2,down=own1",
    "lbgm .5 on top-k 5%": "lbgm+topk@fraction=0.05,threshold=0.5,down=own1",
    "lbgm .6 on sign": "lbgm+sign@threshold=0.6,down=own1",
    "subspace, ternary": f"intrinsic+deadzone@bits=1,{INSIDE}",
    "subspace, lbgm .5 on top-k 25%": f"intrinsic+lbgm+topk@fraction=0.25,threshold=0.5,{INSIDE}",
    "subspace, lbgm .6 on sign": f"intrinsic+lbgm+sign@threshold=0.6,{INSIDE}",
}


def main() -> None:
    """Play what has no result yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--out", type=Path, default=Path("runs/lbgm/silo.json"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(options.out.read_text()) if options.out.exists() else {}

    def once(method: str, seed: int) -> dict:
        key = f"{method} | {seed}"
        if key not in found:
            found[key] = play(method, seed)
            write_atomically(options.out, json.dumps(found, indent=0).encode())
        return found[key]

    print("| method | rounds | recycled, % | kB up | kB both ways |\n|---|---|---|---|---|")
    for row, method in METHODS.items():
        if options.only in row:
            print(line(row, [once(method, seed) for seed in options.seeds]), flush=True)


def line(row: str, runs: list[dict]) -> str:
    """A row of the table; without bytes, where a seed does not reach the accuracy."""
    if not all(run["reached"] for run in runs):
        best = show([100 * run["accuracy"] for run in runs])
        return f"| {row} | {sum(run['reached'] for run in runs)} of {len(runs)}; {best}% at the end | | | |"
    recycled = show([100 * run["recycled"] for run in runs], ".0f") if runs[0]["recycled"] is not None else "–"
    up, both = ([sum(run[way] for way in ways) / 1e3 for run in runs] for ways in (("up",), ("up", "down")))
    return f"| {row} | {show([run['rounds'] for run in runs], '.0f')} | {recycled} | {show(up)} | {show(both)} |"


def show(values: list[float], form: str = ".1f") -> str:
    """Mean and spread."""
    spread = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{form}}{spread}"


def play(method: str, seed: int) -> dict:
    """One run until it has the accuracy twice in a row."""
    key, found = fb.Key(seed), data.load("digits")
    parts = data.partition(found.train_y[:EXAMPLES], "dirichlet:0.5", SILOS, key.fold("partition"))
    local = fb.LocalSGD(lr=LR, batch_size=0, steps=STEPS)

    def build(key: fb.Key) -> torch.nn.Module:
        return models.build("mlp", found, key.fold("model"))

    tests = found.test_x, found.test_y
    task = fb.simulation.Task(build(key), found.train_x, found.train_y, parts, *tests, local, seed=key, build=build)
    reports = list[fb.simulation.RoundReport]()

    def is_there() -> bool:
        return len(reports) > 1 and all((r.accuracy or 0.0) >= TARGET for r in reports[-2:])

    schedule = fb.simulation.Schedule(MOST, processes=1)
    fb.simulation.Federation(task, fb.methods.build(method), schedule, key).run(reports.append, is_there)
    last, recycled = reports[-1], [r.recycled for r in reports if r.recycled is not None]
    return {
        "reached": is_there(),
        "accuracy": last.accuracy,
        "rounds": last.round,
        "up": last.up_frame_bytes,
        "down": last.down_frame_bytes,
        "recycled": statistics.mean(recycled) if recycled else None,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
