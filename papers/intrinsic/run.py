"""Training in random subspaces against FetchSGD, local top-k and FedAvg, at equal total bytes.

Wang and Melas-Kyriazi, arXiv 2112.02656, in the setting of Rothchild et al. (FetchSGD, ICML 2020): 10,000 clients with
five images of one class each (5,000 on CIFAR-10), 1% of them a round, one gradient each; cut in network and rounds to
what one core does (README.md beside this file says how). And what a quantised downlink does for FedAvg, LBGM and top-k.

    python papers/intrinsic/run.py --data-dir DIR [--out runs/intrinsic]     # resumes where it was stopped
    python papers/intrinsic/run.py --data-dir DIR --tune                     # the grid of learning rates
    python papers/intrinsic/table.py [--out runs/intrinsic]                  # the tables of README.md
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from cases import CLIENTS, LADDER, LATE, LINKS, PLAIN, START, TUNED, Case, carrying, cases, sketches
from central import curve
from torch import nn

import fewbits as fb
from fewbits import data, models
from fewbits.files import write_atomically

IMAGES, TESTED = 5, 2000  # images of each client; of the test set, the first
EVERY = {"mnist": 2, "cifar10": 5, LINKS: 2}  # rounds between evaluations


def main() -> None:
    """Run every case for every seed that has no result yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/intrinsic"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--settings", nargs="+", default=["cifar10", "mnist", LINKS])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--tune", action="store_true", help="search learning rates, with a seed of its own; no frames")
    parser.add_argument("--carry", action="store_true", help="what of the momentum in a new matrix; no frames")
    options = parser.parse_args()
    wanted = [c for s in options.settings for c in cases() if c.setting == s and options.only in c.name]
    if options.tune:
        for case in wanted:
            if case.setting != LINKS and not case.name.endswith(PLAIN):
                tune(case, options)
        for case in [c for c in sketches() if c.setting in options.settings and options.only in c.name]:
            once(options.out / "tuning", case, 9, f"{case.name} at {case.lr:g}", partial(apart, case, 9, options))
    elif options.carry:
        for seed in options.seeds:
            for case, carried in carrying():
                name = f"{carried} {case.settings['dim']} at {case.lr:g}"
                once(options.out / "carry", case, seed, name, partial(apart, case, seed, options, carried))
    else:
        for setting in options.settings:
            for seed in options.seeds:
                for case in [c for c in wanted if c.setting == setting and c.lr]:
                    once(options.out, case, seed, case.name, partial(play, case, seed, options))


def once(folder: Path, case: Case, seed: int, name: str, work: Callable[[], dict]) -> dict:
    """The result of that name, from its file if there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{case.setting}-{name.replace(' ', '_').replace(',', '').replace('%', 'pc')}-seed{seed}.json"
    if not path.exists():
        began = time.perf_counter()
        result = {"case": name, "setting": case.setting, "seed": seed, "lr": case.lr} | work()
        result["seconds"] = time.perf_counter() - began
        write_atomically(path, json.dumps(result).encode())
        sent = (
            f"up {result['up'][-1] / 1e6:8.2f} MB, down {result['down'][-1] / 1e6:8.2f} MB, " if "up" in result else ""
        )
        print(
            f"{case.setting:8s} {name:34s} seed {seed}: accuracy {result['accuracy'][-1]:.4f}, {sent}"
            f"{result['seconds']:.0f} s",
            flush=True,
        )
    return json.loads(path.read_text())


def tune(case: Case, options: argparse.Namespace) -> None:
    """Every other rate of the ladder, then the neighbours of the best until both of them are worse."""
    seen: dict[int, float] = {}
    wanted, best = set(START), START[0]
    while wanted:
        for rung in sorted(wanted):
            tried = replace(case, lr=case.at(LADDER[rung]), rounds=TUNED[case.setting])
            name = f"{case.name} at {tried.lr:g}"
            found = once(options.out / "tuning", tried, 9, name, partial(apart, tried, 9, options))
            seen[rung] = float(np.mean(found["accuracy"][-LATE:]))
        best = max(seen, key=lambda rung: seen[rung])
        wanted = {best - 1, best + 1} & set(range(len(LADDER))) - set(seen)
    print(f"{case.setting}: {case.name}: best at {LADDER[best]:g}, {case.at(LADDER[best]):g}", flush=True)


def apart(case: Case, seed: int, options: argparse.Namespace, carried: str = "restart") -> dict:
    """The curve of one run without frames."""
    key = fb.Key(seed)
    return curve(case, many(case, key, options), method(case), key, EVERY[case.setting], carried)


def method(case: Case) -> fb.Method:
    """By its name; local top-k without error feedback."""
    found = fb.methods.build(case.method, case.settings)
    if case.stateless:
        found = replace(found, up=fb.flat(fb.chain(fb.TopK(float(case.settings["fraction"])))))
    return found


def play(case: Case, seed: int, options: argparse.Namespace) -> dict:
    """One run; its curve."""
    key = fb.Key(seed)
    schedule = fb.simulation.Schedule(
        case.rounds, case.per_round, evaluate_every=EVERY[case.setting], processes=options.processes
    )
    task = few(case, key, options) if case.setting == LINKS else many(case, key, options)
    federation = fb.simulation.Federation(task, method(case), schedule, key)
    # Everybody makes the initial model, version 1, from the seed: it does not travel.
    federation.server.downlinks.versions = dict.fromkeys(range(len(task.parts)), 1)
    reports = federation.run().reports
    seen = [r for r in reports if r.accuracy is not None]
    return {
        "parameters": len(federation.server.flat.shared_params),
        "sends": sum(r.clients for r in reports),
        "rounds": [r.round for r in seen],
        "accuracy": [r.accuracy for r in seen],
        "loss": [r.loss for r in seen],
        "up": [r.up_frame_bytes for r in seen],
        "down": [r.down_frame_bytes for r in seen],
    }


def many(case: Case, key: fb.Key, options: argparse.Namespace) -> fb.simulation.Task:
    """FetchSGD's clients: five images of one class each; a turn is one gradient of them all."""
    found = loaded(case.setting, options.data_dir)
    local = fb.LocalSGD(lr=case.lr, batch_size=0, steps=1)
    parts = one_class(found.train_y, CLIENTS[case.setting], key.fold("partition"))
    return task(found, parts, local, key)


def few(case: Case, key: fb.Key, options: argparse.Namespace) -> fb.simulation.Task:
    """20 clients of about 300 images, three classes each; a turn is one epoch."""
    found = loaded("mnist", options.data_dir)
    parts = data.partition(found.train_y[:6000], "classes:3", 20, key.fold("partition"))
    return task(found, parts, fb.LocalSGD(lr=case.lr, batch_size=20), key)


def task(found: data.Data, parts: list[np.ndarray], local: fb.LocalSGD, key: fb.Key) -> fb.simulation.Task:
    """The same model and test images for every method."""
    module = models.build("mlp", found, key.fold("model")) if found.name == "mnist" else normed(key.fold("model"))
    test = found.test_x[:TESTED], found.test_y[:TESTED]
    return fb.simulation.Task(module, found.train_x, found.train_y, parts, *test, local=local)


def normed(key: fb.Key) -> nn.Module:
    """A small network that has learnt something after 100 steps, for 3x16x16: 72,138 parameters."""
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(key.word() & (2**63 - 1))
        first, second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        return nn.Sequential(
            *(first, nn.MaxPool2d(2), nn.GroupNorm(8, 16), nn.ReLU()),
            *(second, nn.MaxPool2d(2), nn.GroupNorm(8, 32), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 10)),
        )  # (batch, 10)


def one_class(labels: torch.Tensor, clients: int, key: fb.Key) -> list[np.ndarray]:
    """Row numbers of each client; a tenth of them has each class.  # clients x (5,)"""
    parts: list[np.ndarray] = []
    for label in range(10):
        rows = np.flatnonzero(labels.numpy() == label)
        rows = rows[key.fold(label).permutation(len(rows))][: clients // 10 * IMAGES]
        parts += [np.sort(own) for own in rows.reshape(-1, IMAGES)]
    return parts


@cache
def loaded(name: str, folder: str) -> data.Data:
    """The data set; CIFAR-10's images at half their side, so that a step costs a quarter."""
    found = data.load(name, folder)
    if name == "cifar10":
        found = replace(found, train_x=half(found.train_x), test_x=half(found.test_x))
    return found


def half(x: torch.Tensor) -> torch.Tensor:
    """Average 2x2 pixels.  # (n, 3, 32, 32) uint8 -> (n, 3, 16, 16) uint8"""
    small = [nn.functional.avg_pool2d(part.float(), 2).round().to(torch.uint8) for part in torch.split(x, 1000)]
    return torch.cat(small).contiguous(memory_format=torch.channels_last)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
