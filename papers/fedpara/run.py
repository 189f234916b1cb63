"""FedPara on a slice of CIFAR-10 and on Shakespeare: at equal rounds, equal parameters and equal bytes, and in stacks.

Hyeon-Woo, Ye-Bin, Oh, ICLR 2022 (arXiv 2108.06098). 20 clients of 250 images on average, 10 a round; cut in
data, network and rounds to what two cores do (README.md beside this file says how).

    python papers/fedpara/run.py --data-dir DIR [--out runs/fedpara]     # resumes where it was stopped
    python papers/fedpara/run.py --data-dir DIR --tune                   # learning rates, FedAdam's, FedDyn's alpha
    python papers/fedpara/table.py [--out runs/fedpara]                  # the tables of README.md
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

import fewbits as fb
from fewbits import data, models
from fewbits.files import write_atomically

CLIENTS, PER_ROUND, IMAGES, TESTED = 20, 10, 250, 2000  # images of each client; of the test set, the first
NON_IID, IID, TEXT = "dirichlet:0.5", "iid", "shakespeare"
LAST = {"skip": "9"}  # the last layer stays dense, as the last three of the paper's VGG16 do
SPEAKERS, WINDOWS = 5, 40  # of Shakespeare; windows of 80 characters at most per speaker
TEXT_ROUNDS = 30
FIRST = (0,)  # the seed of side questions


@dataclass(frozen=True)
class Case:
    """One row of the tables."""

    name: str
    method: str
    settings: dict[str, str] = field(default_factory=dict)
    split: str = NON_IID
    seeds: tuple[int, ...] = (0, 1, 2)
    lr: float | None = None  # of the clients; None: what the command line says


def cases() -> list[Case]:
    """Parametrisations, optimisers, quantised uplinks, stacks; then text."""
    found = [Case("dense", "dense")]
    for gamma in ("0.1", "0.4", "0.7"):
        seeds = FIRST if gamma == "0.7" else (0, 1, 2)
        for form in ("lowrank", "fedpara"):
            found += [Case(f"{form} {gamma}", form, LAST | {"gamma": gamma}, seeds=seeds)]
    small = LAST | {"gamma": "0.1"}
    found += [
        Case("fedpara 0.1 + fedprox", "fedpara+fedprox", small | {"mu": "0.1"}),
        Case("fedpara 0.1 + scaffold", "fedpara+scaffold", small),
        Case("fedpara 0.1 + feddyn", "fedpara+feddyn", small | {"alpha": "0.1"}),
        Case("fedpara 0.1 + fedadam", "fedpara+fedadam", small | {"lr": "0.03"}),
        Case("fedpaq", "fedpaq", {"bits": "16"}, seeds=FIRST),
        Case("fedpara 0.1 + fedpaq", "fedpara+fedpaq", small | {"bits": "16"}, seeds=FIRST),
        Case("topk", "topk", {"fraction": "0.1"}),
        Case("lbgm+topk", "lbgm+topk", {"fraction": "0.1"}),
        Case("fedpara 0.1 + topk", "fedpara+topk", small | {"fraction": "0.1"}),
        Case("fedpara 0.1 + lbgm+topk", "fedpara+lbgm+topk", small | {"fraction": "0.1"}),
        Case(
            "fedpara 0.1 + lbgm 0.6+topk",
            "fedpara+lbgm+topk",
            small | {"fraction": "0.1", "threshold": "0.6"},
            seeds=FIRST,
        ),
        Case("dense, lr 0.4", "dense", lr=0.4),
        Case("lowrank 0.1, lr 0.05", "lowrank", small, lr=0.05),
        Case("fedpara 0.1, lr 0.2", "fedpara", small, lr=0.2),
        Case("fedpara 0.1 + topk, lr 0.2", "fedpara+topk", small | {"fraction": "0.1"}, lr=0.2),
        Case("fedpara 0.1 + lbgm+topk, lr 0.2", "fedpara+lbgm+topk", small | {"fraction": "0.1"}, lr=0.2),
        Case("dense, iid", "dense", {}, IID, FIRST),
        Case("lowrank 0.1, iid", "lowrank", small, IID, FIRST),
        Case("fedpara 0.1, iid", "fedpara", small, IID, FIRST),
    ]
    found += [
        Case("dense, text", "dense", {}, TEXT, FIRST),
        Case("lowrank 0, text", "lowrank", {"gamma": "0"}, TEXT, FIRST),
        Case("fedpara 0, text", "fedpara", {"gamma": "0"}, TEXT, FIRST),
        Case("dense, text, lr 4", "dense", {}, TEXT, FIRST, 4.0),
        Case("fedpara 0, text, lr 4", "fedpara", {"gamma": "0"}, TEXT, FIRST, 4.0),
    ]
    return found


def tuning() -> list[Case]:
    """One seed that no table uses."""
    small = LAST | {"gamma": "0.1"}
    found = [Case(f"fedadam {lr}", "fedpara+fedadam", small | {"lr": lr}) for lr in ("0.003", "0.01", "0.03", "0.1")]
    found += [Case(f"feddyn {alpha}", "fedpara+feddyn", small | {"alpha": alpha}) for alpha in ("0.01", "0.1", "1")]
    for lr in (0.05, 0.1, 0.2, 0.4):
        found += [Case(f"dense, lr {lr}", "dense", lr=lr)]
        found += [Case(f"{form} 0.1, lr {lr}", form, small, lr=lr) for form in ("lowrank", "fedpara")]
    return [replace(case, seeds=(9,)) for case in found]


def main() -> None:
    """Run every case for every seed that has no result yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/fedpara"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=30, help="on CIFAR-10")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--tune", action="store_true", help="the grids of server settings, with a seed of their own")
    options = parser.parse_args()
    if options.tune:
        options.out, options.seeds = options.out / "tuning", [9]
    options.out.mkdir(parents=True, exist_ok=True)
    settle(options.out / "config", {name: getattr(options, name) for name in ("rounds", "lr", "epochs")})
    found = tuning() if options.tune else cases()
    for seed in options.seeds:
        for case in found:
            path = options.out / f"{case.name.replace(' ', '_').replace(',', '')}-seed{seed}.json"
            if options.only in case.name and seed in case.seeds and not path.exists():
                result = play(case, seed, options)
                write_atomically(path, json.dumps(result).encode())
                print(
                    f"{case.name:28s} seed {seed}: accuracy {result['accuracy'][-1]:.4f},"
                    f" loss {result['loss'][-1]:.4f}, up {result['up'][-1] / 1e6:8.3f} MB,"
                    f" down {result['down'][-1] / 1e6:8.3f} MB, {result['seconds']:.0f} s",
                    flush=True,
                )


def settle(path: Path, config: dict[str, float]) -> None:
    """Keep the configuration beside the results; refuse to mix results of two."""
    if path.exists() and json.loads(path.read_text()) != config:
        raise SystemExit(
            f"{path} holds results of {path.read_text()}; asked for {json.dumps(config)}: give another --out"
        )
    write_atomically(path, json.dumps(config).encode())


def play(case: Case, seed: int, options: argparse.Namespace) -> dict:
    """One run; its curve."""
    key = fb.Key(seed)
    if case.split == TEXT:
        task, per_round, every = text(case, key, options), None, 5
    else:
        task, per_round, every = images(case, key, options), PER_ROUND, 2
    rounds = TEXT_ROUNDS if case.split == TEXT else options.rounds
    schedule = fb.simulation.Schedule(rounds, per_round, evaluate_every=every, processes=options.processes)
    federation = fb.simulation.Federation(task, fb.methods.build(case.method, case.settings), schedule, key)
    reports = federation.run().reports
    seen = [r for r in reports if r.accuracy is not None]
    weight = [r.recycled for r in reports if r.recycled is not None]
    return {
        "case": case.name,
        "seed": seed,
        "sends": sum(r.clients for r in reports),
        "parameters": len(federation.server.flat.shared_params),
        "rounds": [r.round for r in seen],
        "accuracy": [r.accuracy for r in seen],
        "loss": [r.loss for r in seen],
        "up": [r.up_frame_bytes for r in seen],
        "down": [r.down_frame_bytes for r in seen],
        "recycled": float(np.mean(weight)) if weight else 0.0,
        "skipped": sum(r.skipped + r.rejected for r in reports),
        "seconds": reports[-1].seconds,
    }


def images(case: Case, key: fb.Key, options: argparse.Namespace) -> fb.simulation.Task:
    """20 clients on the first 5,000 images, whose pixels are averaged 2x2."""
    found = data.load("cifar10", options.data_dir, limit=CLIENTS * IMAGES)
    found = replace(found, train_x=half(found.train_x), test_x=half(found.test_x[:TESTED]))
    parts = data.partition(found.train_y, case.split, CLIENTS, key.fold("partition"))
    model = models.build("simcnn", found, key.fold("model"))
    local = fb.LocalSGD(lr=case.lr or options.lr, batch_size=25, epochs=options.epochs)
    return fb.simulation.Task(model, found.train_x, found.train_y, parts, found.test_x, found.test_y[:TESTED], local)


def half(x: torch.Tensor) -> torch.Tensor:
    """Images at half their side, so that a step costs a quarter.  # (n, 3, 32, 32) uint8 -> (n, 3, 16, 16) uint8"""
    small = nn.functional.avg_pool2d(x.float(), 2).round().to(torch.uint8)
    return small.contiguous(memory_format=torch.channels_last)


def text(case: Case, key: fb.Key, options: argparse.Namespace) -> fb.simulation.Task:
    """5 of the speaking parts that have 40 windows or more, the first 40 of each; all take part in every round."""
    found = data.load("shakespeare", options.data_dir)
    assert found.groups is not None
    numbers, counts = np.unique(found.groups, return_counts=True)
    large = numbers[counts >= WINDOWS]
    chosen = large[key.fold("partition").subset(SPEAKERS, len(large))]
    parts = [np.flatnonzero(found.groups == number)[:WINDOWS] for number in chosen]
    model = models.build("charlstm", found, key.fold("model"))
    local = fb.LocalSGD(lr=case.lr or 1.0, batch_size=4, clip=5.0)
    return fb.simulation.Task(model, found.train_x, found.train_y, parts, found.test_x[:200], found.test_y[:200], local)


if __name__ == "__main__":
    main()
