"""LBGM on MNIST: accuracy, uplink bytes and recycled share against the threshold, and the stacks around it.

Azam, Hosseinalipour, Qiu, Brinton, ICLR 2022 (arXiv 2202.00280). 100 workers with 3 of 10 classes each, the paper's CNN
(431,080 parameters), one full-batch local step per round, server momentum 0.9, as in the official code; cut in
data and rounds to what two cores do (README.md beside this file says how).

    python papers/lbgm/run.py --data-dir DIR [--out runs/lbgm]     # resumes where it was stopped
    python papers/lbgm/table.py [--out runs/lbgm]                  # the tables of README.md
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

import fewbits as fb
from fewbits import data, models
from fewbits.files import write_atomically


@dataclass(frozen=True)
class Case:
    """One row of the tables."""

    name: str
    method: str
    settings: dict[str, str] = field(default_factory=dict)
    per_round: int | None = None  # clients sampled; None: all
    once: bool = False  # for the first seed only: a side question


ONCE = {
    "lbgm 0",  # a test proves that it equals FedAvg
    "lbgm 0.2 per tensor",
    "lbgm 0.2 + residual feedback",
    "lbgm 0.4 on top-k 10%, EF outside",
    "top-k 0.0005 + EF, 4 bit",
    "predict 0 on top-k 1%, 4 bit, EF outside",
    "predict 0.9 on top-k 1%, 4 bit, EF outside",
}


def cases() -> list[Case]:
    """The thresholds, the stacks, the rivals at equal bytes, and sampling."""
    found = [Case("fedavg", "dense")]
    found += [Case(f"lbgm {d}", "lbgm", {"threshold": d}) for d in ("0", "0.2", "0.4", "0.6", "0.8")]
    found += [Case("lbgm 0.2 per tensor", "lbgm", {"threshold": "0.2", "granularity": "tensor"})]
    found += [Case("lbgm 0.2 + residual feedback", "lbgm", {"threshold": "0.2", "feedback": "true"})]
    top = {"fraction": "0.1", "bits": "32", "down": "dense"}
    found += [Case("top-k 10% + EF", "topk", top)]
    found += [
        Case(f"lbgm 0.4 on top-k 10%, EF {f}", "lbgm+topk", top | {"threshold": "0.4", "feedback": f})
        for f in ("none", "inside", "outside")
    ]
    found += [
        Case(f"top-k {k} + EF, 4 bit", "topk", {"fraction": k, "down": "dense"}) for k in ("0.01", "0.002", "0.0005")
    ]
    small = {"fraction": "0.01", "down": "dense"}
    found += [Case("lbgm 0.4 on top-k 1%, 4 bit", "lbgm+topk", small | {"threshold": "0.4"})]
    found += [
        Case(f"predict {s} on top-k 1%, 4 bit, EF outside", "predict", small | {"silent": s}) for s in ("0", "0.9")
    ]
    found += [
        Case(f"predict {s} on top-k 1%, 4 bit, no EF", "predict", small | {"silent": s, "feedback": "none"})
        for s in ("0.2", "0.5")
    ]
    found += [Case("fedavg, 30 of 100", "dense", {}, 30), Case("lbgm 0.2, 30 of 100", "lbgm", {"threshold": "0.2"}, 30)]
    return [replace(case, once=case.name in ONCE) for case in found]


def main() -> None:
    """Run every case for every seed that has no result yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/lbgm"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--examples", type=int, default=20, help="per worker (the paper: 600)")
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    settle(options.out / "config", {"rounds": options.rounds, "examples": options.examples, "lr": options.lr})
    mnist = data.load("mnist", options.data_dir)
    for seed in options.seeds:
        for case in cases():
            path = options.out / f"{case.name.replace(' ', '_').replace('%', 'pc').replace(',', '')}-seed{seed}.json"
            if options.only in case.name and not path.exists() and not (case.once and seed != options.seeds[0]):
                result = play(case, seed, mnist, options)
                write_atomically(path, json.dumps(result).encode())
                print(
                    f"{case.name:40s} seed {seed}: accuracy {result['accuracy'][-1]:.4f},"
                    f" up {result['up'][-1] / 1e6:9.3f} MB, recycled {result['recycled']:.3f},"
                    f" {result['seconds']:.0f} s",
                    flush=True,
                )


def settle(path: Path, config: dict[str, float]) -> None:
    """Keep the configuration beside the results; refuse to mix results of two."""
    if path.exists() and json.loads(path.read_text()) != config:
        raise SystemExit(
            f"{path} holds results of {path.read_text()}; asked for {json.dumps(config)}: give another --out"
        )
    write_atomically(path, json.dumps(config).encode())


def play(case: Case, seed: int, mnist: data.Data, options: argparse.Namespace) -> dict:
    """One run; its curve."""
    key = fb.Key(seed)
    everybody = data.partition(mnist.train_y, "classes:3", 100, key.fold("partition"))
    # A worker keeps an even slice of its examples, so that it keeps all of its classes.
    parts = [
        rows[np.argsort(mnist.train_y[rows].numpy(), kind="stable")][:: max(1, len(rows) // options.examples)]
        for rows in everybody
    ]
    parts = [
        rows[: options.examples] if len(rows) > options.examples else rows
        for rows in (np.random.Generator(np.random.Philox(seed)).permutation(r) for r in parts)
    ]
    model = models.build("cnn", mnist, key.fold("model"))
    task = fb.simulation.Task(
        model,
        mnist.train_x,
        mnist.train_y,
        parts,
        mnist.test_x[:5000],
        mnist.test_y[:5000],
        fb.LocalSGD(lr=options.lr, batch_size=0),
    )
    method = fb.methods.build(case.method, case.settings | {"momentum": "0.9"})
    schedule = fb.simulation.Schedule(options.rounds, case.per_round, evaluate_every=10, processes=options.processes)
    reports = fb.simulation.Federation(task, method, schedule, key).run().reports
    seen = [r for r in reports if r.accuracy is not None]
    weight = [r.recycled for r in reports if r.recycled is not None]
    return {
        "case": case.name,
        "seed": seed,
        "rounds": [r.round for r in seen],
        "accuracy": [r.accuracy for r in seen],
        "up": [r.up_frame_bytes for r in seen],
        "down": [r.down_frame_bytes for r in seen],
        "recycled": float(np.mean(weight)) if weight else 0.0,
        "floor": max([r.floor for r in reports if r.floor is not None], default=None),
        "seconds": reports[-1].seconds,
    }


if __name__ == "__main__":
    main()
