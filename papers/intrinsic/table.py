"""The tables and the picture of README.md, from the results that run.py left.

python papers/intrinsic/table.py [--out runs/intrinsic] [--picture papers/intrinsic/bytes.png]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from cases import DIMS, LINKS, MODES, PLAIN, cases, tuning

BUDGETS = {  # bytes in both directions, all clients together
    "mnist": (2e6, 10e6, 30e6, 100e6, 300e6, 1e9, 3e9),
    "cifar10": (10e6, 30e6, 100e6, 300e6, 1e9, 3e9),
}
TARGETS = {"mnist": (0.70, 0.80), "cifar10": (0.20, 0.25), LINKS: (0.70, 0.75, 0.80)}  # accuracies to reach
LATE = 3  # evaluations that "accuracy" is the mean of

Runs = dict[tuple[str, str], list[dict]]  # by setting and case


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/intrinsic"))
    parser.add_argument("--picture", type=Path, help="where to write it")
    options = parser.parse_args()
    found = read(options.out)
    for setting in DIMS:
        if any(name == setting for name, _ in found):
            by_dim(found, setting)
            at_bytes(found, setting)
    downlinks(found)
    rates(read(options.out / "tuning"))
    if options.picture:
        options.picture.write_bytes(picture(found))


def read(folder: Path) -> Runs:
    """Results by setting and case, seeds in order."""
    found: Runs = {}
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text())
        found.setdefault((run["setting"], run["case"]), []).append(run)
    return found


def spread(values: list[float], form: str) -> str:
    """mean ± sample standard deviation, or the one value."""
    mean = format(float(np.mean(values)), form)
    return f"{mean} ± {format(float(np.std(values, ddof=1)), form)}" if len(values) > 1 else mean


def both(run: dict) -> list[int]:
    """Bytes up and down so far, at each evaluation."""
    return [up + down for up, down in zip(run["up"], run["down"], strict=True)]


def late(run: dict) -> float:
    """Accuracy in per cent, the mean of the last evaluations."""
    return 100 * float(np.mean(run["accuracy"][-LATE:]))


def within(run: dict, budget: float) -> float | None:
    """Best accuracy in per cent measured before the bytes passed the budget."""
    return max((100 * a for a, sent in zip(run["accuracy"], both(run), strict=True) if sent <= budget), default=None)


def to(run: dict, accuracy: float) -> int | None:
    """Bytes until that accuracy was first measured; None: never."""
    return next((sent for sent, found in zip(both(run), run["accuracy"], strict=True) if found >= accuracy), None)


def by_dim(found: Runs, setting: str) -> None:
    """The three modes at equal d and equal rounds; gaps are of the same seeds."""
    print(f"\n| {setting}: d | D/d | " + " | ".join(f"{mode}, % | × fewer" for mode in MODES) + " | gaps to static |")
    print("|---|---|" + "---|---|" * len(MODES) + "---|")
    for dim in [*map(str, DIMS[setting]), *(f"{dim}{PLAIN}" for dim in DIMS[setting])]:
        runs = {mode: found.get((setting, f"{mode} {dim}"), []) for mode in MODES}
        if not all(runs.values()):
            continue
        cells = [f"{spread([late(r) for r in own], '.1f')} | {fewer(own):,.0f}" for own in runs.values()]
        static = {run["seed"]: late(run) for run in runs["static"]}
        gaps = [[late(r) - static[r["seed"]] for r in runs[mode] if r["seed"] in static] for mode in MODES[1:]]
        ratio = runs["static"][0]["parameters"] / int(dim.removesuffix(PLAIN))
        cells.append(", ".join(spread(gap, "+.1f").replace("± +", "± ") for gap in gaps))
        print(f"| {dim} | {ratio:,.0f} | " + " | ".join(cells) + " |")


def fewer(runs: list[dict]) -> float:
    """Dense float32 numbers of as many turns, both ways, over the bytes that travelled."""
    return float(np.mean([8 * run["parameters"] * run["sends"] / both(run)[-1] for run in runs]))


def at_bytes(found: Runs, setting: str) -> None:
    """Everything at equal bytes, and what a turn costs."""
    heads = [*(f"MB to {target:.0%}" for target in TARGETS[setting]), *(f"{b / 1e6:,.0f} MB" for b in BUDGETS[setting])]
    print(f"\n| {setting}: best accuracy, % within | kB up | kB down | {' | '.join(heads)} |")
    print("|---|---|---|" + "---|" * len(heads))
    for name in names(found, setting):
        runs = found[setting, name]
        cells = [f"{np.mean([r[way][-1] / r['sends'] / 1e3 for r in runs]):,.2f}" for way in ("up", "down")]
        cells += [reached(runs, target) for target in TARGETS[setting]]
        for budget in BUDGETS[setting]:
            seen = [a for a in (within(run, budget) for run in runs) if a is not None]
            cells.append(spread(seen, ".1f") if len(seen) == len(runs) else "")
        print(f"| {name} | " + " | ".join(cells) + " |")


def reached(runs: list[dict], target: float) -> str:
    """Megabytes both ways until that accuracy, or how many of the seeds got there."""
    sent = [x / 1e6 for x in (to(run, target) for run in runs) if x is not None]
    return spread(sent, ",.1f") if len(sent) == len(runs) else f"{len(sent)} of {len(runs)}"


def names(found: Runs, setting: str) -> list[str]:
    """The rows of a setting that have results, in order."""
    own = [case.name for case in cases() if case.setting == setting and not case.name.endswith(PLAIN)]
    return [name for name in own if (setting, name) in found]


def downlinks(found: Runs) -> None:
    """Bytes both ways to an accuracy, by downlink."""
    heads = " | ".join(f"MB to {target:.0%}" for target in TARGETS[LINKS])
    print(f"\n| method, downlink | accuracy, % | MB up | MB down | {heads} |")
    print("|---|---|---|---|" + "---|" * len(TARGETS[LINKS]))
    for name in names(found, LINKS):
        runs = found[LINKS, name]
        cells = [spread([late(r) for r in runs], ".1f")]
        cells += [f"{np.mean([r[way][-1] / 1e6 for r in runs]):,.1f}" for way in ("up", "down")]
        cells += [reached(runs, target) for target in TARGETS[LINKS]]
        print(f"| {name} | " + " | ".join(cells) + " |")


def rates(found: Runs) -> None:
    """The grid: accuracy at each rate, the best one marked."""
    print("\n| tuning, seed 9 | accuracy, % at rate |")
    print("|---|---|")
    rows: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for case in tuning():
        for run in found.get((case.setting, case.name), []):
            rows.setdefault((case.setting, case.tuned), []).append((case.lr, late(run)))
    for (setting, name), seen in rows.items():
        best = max(accuracy for _, accuracy in seen)
        cells = [f"**{a:.1f} at {lr:g}**" if a == best else f"{a:.1f} at {lr:g}" for lr, a in seen]
        print(f"| {setting}: {name} | {', '.join(cells)} |")


def picture(found: Runs) -> bytes:
    """Accuracy against bytes both ways, one line per case, the mean over seeds."""
    import io

    from matplotlib.figure import Figure

    shown = [setting for setting in DIMS if any(name == setting for name, _ in found)]
    figure = Figure(figsize=(5.6 * len(shown), 4.6), dpi=110, layout="constrained")
    for axes, setting in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for name in names(found, setting):
            runs = found[setting, name]
            length = min(len(run["accuracy"]) for run in runs)
            x = np.mean([both(run)[:length] for run in runs], axis=0) / 1e6
            y = 100 * np.mean([run["accuracy"][:length] for run in runs], axis=0)
            kind, _, dim = name.partition(" ")
            own = f"C{DIMS[setting].index(int(dim))}" if kind in MODES else "black"
            style = dict(zip(MODES, ("-", "--", ":"), strict=True)).get(kind, "-.")
            label = name if kind in MODES else None
            axes.plot(x, np.maximum.accumulate(y), style, label=label, linewidth=1.2, color=own)
            if label is None:
                axes.annotate(f" {name}", (float(x[-1]), float(y.max())), fontsize=6, va="center")
        axes.set(xscale="log", xlabel="MB both ways, all clients", ylabel="best accuracy so far, %", title=setting)
        axes.set_xlim(right=4 * axes.get_xlim()[1])  # for the names
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


if __name__ == "__main__":
    main()
