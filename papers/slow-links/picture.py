"""Loss against bytes, and against seconds on three lines, for README.md, from the results that run.py left.

python papers/slow-links/picture.py [--steps N] [--out runs/slow-links] [--picture papers/slow-links/loss.png]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cases import STEPS
from gpt import SIZES
from line_seconds import LINES, MBIT, seconds
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from table import Runs, common_step, read, step_of


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/slow-links"))
    parser.add_argument("--model", choices=list(SIZES), default="gpt")
    parser.add_argument("--steps", type=int, default=STEPS, help="inner steps of the runs")
    parser.add_argument("--picture", type=Path, default=Path("papers/slow-links/loss.png"))
    options = parser.parse_args()
    found = read(options.out, options.model, options.steps)
    figure = Figure(figsize=(12, 9), dpi=75, layout="constrained")
    panels = figure.subplots(2, 2, sharey=True)
    draw(panels[0][0], found, "MB that a rank has sent (measured)", lambda run, at: run["curve"][at][2] / 1e6)
    common = common_step(found)
    for axes, line, speed in zip(panels.flat[1:], LINES, MBIT, strict=True):
        words = f"seconds at {speed:,} Mbit/s (computed from frames and inner steps)"
        draw(axes, found, words, lambda run, at, line=line: seconds(run, line, step_of(run, common), at))
    for row in panels:
        row[0].set_ylabel("loss, nats a character")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    figure.savefig(options.picture, format="png")


def draw(axes: Axes, found: Runs, words: str, place: Callable[[dict[str, Any], int], float]) -> None:
    """A line for each method: the mean over its seeds."""
    for i, (name, seeds) in enumerate(found.items()):
        runs = list(seeds.values())
        points = range(len(runs[0]["curve"]))
        x = [np.mean([place(run, at) for run in runs]) for at in points]
        loss = [np.mean([run["curve"][at][3] for run in runs]) for at in points]
        axes.plot(x, loss, label=name, color=f"C{i % 10}", ls="-" if i < 10 else "--", lw=1.4, marker=".", ms=4)
    axes.set(xscale="log", xlabel=words)
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    main()
