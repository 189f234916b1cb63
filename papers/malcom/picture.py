"""Accuracy against bytes, for README.md, from the results that run.py left.

python papers/malcom/picture.py [--out runs/malcom] [--picture papers/malcom/bytes.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from cases import groups
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from table import MEAN, NODES, load

SHOWN = {"ring": "MNIST, ring of 10", "cifar10": "CIFAR-10, ring of 10"}


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/malcom"))
    parser.add_argument("--picture", type=Path, default=Path("papers/malcom/bytes.png"))
    options = parser.parse_args()
    figure = Figure(figsize=(11, 8), dpi=70, layout="constrained")
    for row, (name, title) in zip(figure.subplots(len(SHOWN), 2), SHOWN.items(), strict=True):
        for axes, field, what in zip(row, (NODES, MEAN), ("mean over nodes", "mean model"), strict=True):
            draw(axes, options.out, name, field)
            axes.set(xscale="log", xlabel="MB of frames", ylabel="accuracy, %", title=f"{title}: {what}")
            axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    figure.savefig(options.picture, format="png")


def draw(axes: Axes, out: Path, group: str, field: str) -> None:
    """A line per method, the mean over seeds; a band from the least seed to the greatest."""
    for case in groups()[group]:
        runs = load(out, case)
        if not runs or case.name.endswith(("rans", "0.0001", "0.001")):
            continue
        megabytes = np.mean([run["frame_bytes"] for run in runs], axis=0) / 1e6
        accuracy = 100 * np.array([run[field] for run in runs])  # (seeds, evaluations)
        (line,) = axes.plot(megabytes, accuracy.mean(axis=0), label=case.name, linewidth=1.3)
        axes.fill_between(megabytes, accuracy.min(axis=0), accuracy.max(axis=0), color=line.get_color(), alpha=0.12)


if __name__ == "__main__":
    main()
