"""The tables and the picture of README.md, from the results that run.py left.

python papers/intrinsic/table.py [--out runs/intrinsic] [--pictures papers/intrinsic]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from cases import DIMS, LATE, LINKS, MODES, OWN, PLAIN, carrying, cases, sketches

BUDGETS = {  # bytes in both directions, all clients together
    "mnist": (2e6, 10e6, 30e6, 100e6, 300e6, 1e9, 3e9),
    "cifar10": (10e6, 30e6, 100e6, 300e6, 1e9, 3e9),
}
TARGETS = {"mnist": (0.70, 0.80), "cifar10": (0.30, 0.40), LINKS: (0.70, 0.75, 0.80)}  # accuracies to reach

Runs = dict[tuple[str, str], list[dict]]  # by setting and case


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/intrinsic"))
    parser.add_argument("--pictures", type=Path, help="the folder to write them to: bytes-mnist.png, bytes-cifar10.png")
    options = parser.parse_args()
    found = read(options.out)
    for setting in DIMS:
        if any(name == setting for name, _ in found):
            by_dim(found, setting)
            at_bytes(found, setting)
            if options.pictures:
                (options.pictures / f"bytes-{setting}.png").write_bytes(picture(found, setting))
    downlinks(found)
    momentum(read(options.out / "carry"))
    rates(read(options.out / "tuning"))


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
    for dim in [*map(str, DIMS[setting]), *(f"{dim}{aside}" for aside in (PLAIN, OWN) for dim in DIMS[setting])]:
        runs = {mode: found.get((setting, f"{mode} {dim}"), []) for mode in MODES}
        if not all(runs.values()):
            continue
        cells = [f"{spread([late(r) for r in own], '.1f')} | {fewer(own):,.0f}" for own in runs.values()]
        static = {run["seed"]: late(run) for run in runs["static"]}
        gaps = [[late(r) - static[r["seed"]] for r in runs[mode] if r["seed"] in static] for mode in MODES[1:]]
        ratio = runs["static"][0]["parameters"] / int(dim.partition(",")[0])
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
    own = [case.name for case in cases() if case.setting == setting and not case.name.endswith((OWN, PLAIN))]
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


def momentum(found: Runs) -> None:
    """Time-varying with all that could become of its momentum, beside static."""
    ways = list(dict.fromkeys(way for _, way in carrying()))
    print(f"\n| mnist: d | rate | {' | '.join(ways)} |")
    print("|---|---|" + "---|" * len(ways))
    for dim, lr in dict.fromkeys((case.settings["dim"], case.lr) for case, _ in carrying()):
        runs = [found.get(("mnist", f"{way} {dim} at {lr:g}"), []) for way in ways]
        if all(runs):
            print(f"| {dim} | {lr:g} | " + " | ".join(spread([late(r) for r in own], ".1f") for own in runs) + " |")


def rates(found: Runs) -> None:
    """The search: accuracy at each rate, the best one marked."""
    print("\n| tuning, seed 9 | accuracy, % at rate |")
    print("|---|---|")
    for setting in DIMS:
        for name in [case.name for case in cases() + sketches() if case.setting == setting]:
            tried = [runs[0] for (own, at), runs in found.items() if own == setting and at.startswith(f"{name} at ")]
            seen = sorted((run["lr"], late(run)) for run in tried)
            best = max((accuracy for _, accuracy in seen), default=None)
            cells = [f"**{a:.1f} at {lr:g}**" if a == best else f"{a:.1f} at {lr:g}" for lr, a in seen]
            if cells:
                print(f"| {setting}: {name} | {', '.join(cells)} |")


def picture(found: Runs, setting: str) -> bytes:
    """Accuracy against bytes both ways, one line per case, the mean over seeds."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    for name in names(found, setting):
        runs = found[setting, name]
        length = min(len(run["accuracy"]) for run in runs)
        x = np.mean([both(run)[:length] for run in runs], axis=0) / 1e6
        y = np.maximum.accumulate(100 * np.mean([run["accuracy"][:length] for run in runs], axis=0))
        kind, _, dim = name.partition(" ")
        own = f"C{DIMS[setting].index(int(dim))}" if kind in MODES else "black"
        style = {"static": "-", "time-varying": "--", "k-subspace": ":"}.get(kind, "-.")
        axes.plot(x, y, style, label=name if kind in MODES else None, linewidth=1.2, color=own)
        if kind not in MODES:
            axes.annotate(
                f" {name}", (float(x[-1]), float(y[-1])), fontsize=7, va="top" if "a round" in name else "bottom"
            )
    axes.set(xscale="log", xlabel="MB both ways, all clients", ylabel="best accuracy so far, %", title=setting)
    axes.set_xlim(right=4 * axes.get_xlim()[1])  # for the names
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


if __name__ == "__main__":
    main()
