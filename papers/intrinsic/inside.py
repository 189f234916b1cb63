"""Inside subspaces, at equal bytes both ways: the modes against static, and which codec pays over s.

Digits and a slice of MNIST, 20 clients with three classes each, ten a round, one epoch in batches of 20. A run ends
with its budget. Its learning rate falls to a tenth over the rounds that the budget buys, and is the best of a ladder
for each row, found with a seed of its own. The group `advice` has what `fewbits diagnose` advises, and its
rivals.

    python papers/intrinsic/inside.py --data-dir DIR [--groups modes over] [--tasks digits mnist]    # resumes
    python papers/intrinsic/inside.py --data-dir DIR --try METHOD       # another method on the same tasks
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import nn

import fewbits as fb
from fewbits import data, models
from fewbits.files import write_atomically

LADDER = (0.1, 0.2, 0.4)  # learning rates
START = (1, 2)  # rungs tried first; then what is beside the best one
TRIED = 9  # the seed of the ladder
MOST = 150  # rounds of a run
CLOSE = 0.15  # a run in which the rate fell over so much more or fewer rounds than were played is played again


@dataclass(frozen=True)
class Setting:
    """A task, and the budget that every run of it has."""

    data: str
    examples: int
    tests: int
    budget: int  # bytes, both directions
    numbers: int  # parameters of the model


SETTINGS = {
    "digits": Setting("digits", 1437, 360, 100_000, 9_610),
    "mnist": Setting("mnist", 3000, 1000, 200_000, 28_930),
}
CLIENTS, PER_ROUND = 20, 10


def inside(over: str, dim: int, down: str = "own1", **options: object) -> str:
    """The text of a method inside a subspace."""
    found = {"dim": dim, "down": down} | options
    return f"intrinsic+{over}@" + ",".join(f"{name}={value}" for name, value in found.items())


def modes(numbers: int) -> dict[str, str]:
    """Rows of the modes: d, 4 d and, for what has 4 d numbers in all, d / 4."""
    d, few = numbers // 16, numbers // 64

    def row(dim: int, mode: str, epoch: int = 10) -> str:
        return inside("deadzone", dim, bits=1, mode=mode, k=4, epoch=epoch)

    return {
        "static d": row(d, "static"),
        "k-subspace, 4 of d": row(d, "k-subspace"),
        "time-varying, 4 of d, 5 rounds": row(d, "time-varying", 5),
        "growing, 4 of d, 5 rounds": row(d, "growing", 5),
        "static 4 d": row(4 * d, "static"),
        "time-varying, 4 of d/4, 5 rounds": row(few, "time-varying", 5),
        "growing, 4 of d/4, 10 rounds": row(few, "growing", 10),
    }


def over(numbers: int) -> dict[str, str]:
    """Rows of the codecs over s."""
    d = numbers // 16
    return {
        "ternary": inside("deadzone", d, bits=1),
        "2 bit": inside("deadzone", d, "own2", bits=2),
        "sign": inside("signsgd", d),
        "top-k 5% of 4 d": inside("topk", 4 * d, fraction=0.05),
        "lbgm .5": inside("lbgm", d, threshold=0.5),
        "lbgm .5 on top-k 25%": inside("lbgm+topk", d, fraction=0.25, threshold=0.5),
        "lbgm .6 on sign": inside("lbgm+sign", d, threshold=0.6),
        "predict .5 on top-k 25%, no feedback": inside("predict", d, fraction=0.25, silent=0.5, feedback="none"),
    }


def advice(numbers: int) -> dict[str, str]:
    """The advised method and its rivals."""
    return {
        "ternary": "deadzone@bits=1,down=own1",
        "top-k 1%": "topk@fraction=0.01,down=own1",
        "top-k 5%": "topk@fraction=0.05,down=own4",
        "lbgm .2 on top-k 5%": "lbgm+topk@fraction=0.05,down=own1",
        "inside 1/16": modes(numbers)["static d"],
        "inside 1/4": modes(numbers)["static 4 d"],
        "inside 1/9": inside("deadzone", numbers // 9, bits=1),
        "fedpara on top-k 5%": "fedpara+topk@fraction=0.05,down=own1",
        "inside 1/16, factors": inside("fedpara+deadzone", numbers // 16, bits=1),
    }


GROUPS = {"modes": modes, "over": over, "advice": advice}


def main() -> None:
    """Play what has no result yet, and print a table for each group and task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="with a folder for each data set")
    parser.add_argument("--tasks", nargs="+", default=["digits", "mnist"])
    parser.add_argument("--groups", nargs="+", default=["modes", "over"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--try", dest="tried", nargs="+", default=[], help="methods as text, in place of the groups")
    parser.add_argument("--out", type=Path, default=Path("runs/intrinsic/inside.json"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results = Results(options.out, options.data_dir)
    for name in options.tasks:
        groups = {group: GROUPS[group](SETTINGS[name].numbers) for group in options.groups}
        for group, rows in ({"tried": {one: one for one in options.tried}} if options.tried else groups).items():
            print(f"\n{name}, {group}, {SETTINGS[name].budget / 1e3:g} kB\n\n| row | rate | rounds | accuracy, % |")
            print("|---|---|---|---|", flush=True)
            for row, method in rows.items():
                lr = results.rate(name, method)
                runs = [results.once(name, method, lr, seed) for seed in options.seeds]
                rounds = round(statistics.mean(run["rounds"] for run in runs))
                print(f"| {row} | {lr:g} | {rounds} | {show([run['accuracy'] for run in runs])} |", flush=True)


class Results:
    """Runs by what they are of, in a file; those that are there are not played again."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self.folder = path, folder
        self.found = json.loads(path.read_text()) if path.exists() else {}

    def once(self, name: str, method: str, lr: float, seed: int) -> dict:
        """The run of this method, rate and seed."""
        key = f"{name} | {method} | {lr:g} | {seed}"
        if key not in self.found:
            self.found[key] = play(name, method, lr, seed, self.folder)
            write_atomically(self.path, json.dumps(self.found, indent=0).encode())
        return self.found[key]

    def rate(self, name: str, method: str) -> float:
        """The rung with the best accuracy, and then the least loss."""
        seen: dict[int, tuple[float, float]] = {}
        wanted, best = set(START), START[0]
        while wanted:
            for rung in wanted:
                run = self.once(name, method, LADDER[rung], TRIED)
                seen[rung] = run["accuracy"], -run["loss"]
            best = max(seen, key=lambda rung: seen[rung])
            wanted = {best - 1, best + 1} & set(range(len(LADDER))) - set(seen)
        return LADDER[best]


def play(name: str, method: str, lr: float, seed: int, folder: Path) -> dict:
    """One run until its budget ends it, its rate falling over as many rounds as it has."""
    setting, falling = SETTINGS[name], bought(name, method, lr, seed, folder)
    while True:
        task = task_of(setting, fb.LocalSGD(lr=lr, batch_size=20, falling=falling), seed, folder)
        last = (
            fb.simulation.Federation(task, fb.methods.build(method), schedule(setting), fb.Key(seed)).run().reports[-1]
        )
        if abs(last.round - falling) <= max(1, CLOSE * last.round):
            sent = last.up_frame_bytes, last.down_frame_bytes
            loss = 1e9 if last.loss is None or last.loss != last.loss else last.loss
            return {"accuracy": last.accuracy, "loss": loss, "rounds": last.round, "up": sent[0], "down": sent[1]}
        falling = last.round if last.round > falling else (last.round + falling) // 2


def bought(name: str, method: str, lr: float, seed: int, folder: Path, rounds: int = 6) -> int:
    """How many rounds the budget buys, by the bytes of the first few."""
    setting = SETTINGS[name]
    task = task_of(setting, fb.LocalSGD(lr=lr, batch_size=20), seed, folder)
    played = replace(schedule(setting), rounds=rounds)
    reports = fb.simulation.Federation(task, fb.methods.build(method), played, fb.Key(seed)).run().reports
    sums = [report.up_frame_bytes + report.down_frame_bytes for report in reports]
    if len(sums) < rounds:
        return len(sums)
    return min(MOST, max(1, round(rounds + (setting.budget - sums[-1]) / ((sums[-1] - sums[2]) / (rounds - 3)))))


def schedule(setting: Setting) -> fb.simulation.Schedule:
    """Evaluated at its end alone."""
    return fb.simulation.Schedule(MOST, PER_ROUND, 10**6, processes=1, budget=setting.budget)


def task_of(setting: Setting, local: fb.LocalSGD, seed: int, folder: Path) -> fb.simulation.Task:
    """The clients' shares and the initial model of a seed, which everybody makes."""
    key, found = fb.Key(seed), load(setting.data, folder)

    def build(key: fb.Key) -> nn.Module:
        key = key.fold("model")
        return models.build("mlp", found, key) if setting.data == "digits" else small(key)

    labels = found.train_y[: setting.examples]
    parts = data.partition(labels, "classes:3", CLIENTS, key.fold("partition"))
    tests = found.test_x[: setting.tests], found.test_y[: setting.tests]
    return fb.simulation.Task(build(key), found.train_x, found.train_y, parts, *tests, local, seed=key, build=build)


def small(key: fb.Key) -> nn.Module:
    """A network of convolutions for 1x14x14: 28,930 parameters."""
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(key.word() >> 1)
        one, two = nn.Conv2d(1, 16, 3, 2, 1), nn.Conv2d(16, 24, 3, 2, 1)
        last = nn.Linear(384, 64), nn.ReLU(), nn.Linear(64, 10)
        return nn.Sequential(one, nn.ReLU(), two, nn.ReLU(), nn.Flatten(), *last)


@cache
def load(name: str, folder: Path) -> data.Data:
    """A data set; MNIST's first images at half their side."""
    if name == "digits":
        return data.load(name)
    found = data.load(name, folder / name).first(SETTINGS[name].examples)
    halves = {
        part: nn.functional.avg_pool2d(getattr(found, part).float() / 127.5 - 1, 2) for part in ("train_x", "test_x")
    }
    return replace(found, **halves)


def show(accuracies: list[float]) -> str:
    """Mean and spread, %."""
    found = [100 * accuracy for accuracy in accuracies]
    spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.1f}{spread}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
