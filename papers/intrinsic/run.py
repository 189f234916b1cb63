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
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from cases import CLIENTS, LINKS, Case, cases, tuning
from torch import nn

import fewbits as fb
from fewbits import data, models
from fewbits.engines.memory.checkpoint import write_atomically

IMAGES, TESTED = 5, 2000  # images of each client; of the test set, the first
MODEL = {"mnist": "mlp", "cifar10": "simcnn", LINKS: "mlp"}


def main() -> None:
    """Run every case for every seed that has no result yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/intrinsic"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--settings", nargs="+", default=["mnist", LINKS, "cifar10"])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--tune", action="store_true", help="the grid of learning rates, with a seed of its own")
    options = parser.parse_args()
    seeds, found = ([9], tuning()) if options.tune else (options.seeds, cases())
    folder = options.out / "tuning" if options.tune else options.out
    folder.mkdir(parents=True, exist_ok=True)
    order = [(s, seed, c) for s in options.settings for seed in seeds for c in found if c.setting == s]
    for setting, seed, case in order:
        path = folder / f"{setting}-{case.name.replace(' ', '_').replace(',', '').replace('%', 'pc')}-seed{seed}.json"
        if options.only in case.name and not path.exists() and not (case.once and seed != seeds[0]):
            result = play(case, seed, options)
            write_atomically(path, json.dumps(result).encode())
            print(
                f"{setting:8s} {case.name:28s} seed {seed}: accuracy {result['accuracy'][-1]:.4f},"
                f" up {result['up'][-1] / 1e6:8.2f} MB, down {result['down'][-1] / 1e6:8.2f} MB,"
                f" {result['seconds']:.0f} s",
                flush=True,
            )


def play(case: Case, seed: int, options: argparse.Namespace) -> dict:
    """One run; its curve."""
    key = fb.Key(seed)
    method = fb.methods.build(case.method, case.settings)
    if case.stateless:
        method = replace(method, up=fb.flat(fb.chain(fb.TopK(float(case.settings["fraction"])))))
    schedule = fb.Schedule(
        case.rounds, case.per_round, evaluate_every=5 if case.setting == "cifar10" else 2, processes=options.processes
    )
    federation = fb.Federation(
        few(case, key, options) if case.setting == LINKS else many(case, key, options), method, schedule, key
    )
    # Everybody makes the initial model, version 1, from the seed: it does not travel.
    federation.server.versions = dict.fromkeys(range(len(federation.task.parts)), 1)
    reports = federation.run().reports
    seen = [r for r in reports if r.accuracy is not None]
    return {
        "case": case.name,
        "setting": case.setting,
        "seed": seed,
        "lr": case.lr,
        "parameters": len(federation.server.flat.shared_params),
        "sends": sum(r.clients for r in reports),
        "rounds": [r.round for r in seen],
        "accuracy": [r.accuracy for r in seen],
        "loss": [r.loss for r in seen],
        "up": [r.up_frame_bytes for r in seen],
        "down": [r.down_frame_bytes for r in seen],
        "seconds": reports[-1].seconds,
    }


def many(case: Case, key: fb.Key, options: argparse.Namespace) -> fb.Task:
    """FetchSGD's clients: five images of one class each; a turn is one gradient of them all."""
    found = loaded(case.setting, options.data_dir)
    local = fb.LocalSGD(lr=case.lr, batch_size=0, steps=1)
    parts = one_class(found.train_y, CLIENTS[case.setting], key.fold("partition"))
    return task(found, MODEL[case.setting], parts, local, key)


def few(case: Case, key: fb.Key, options: argparse.Namespace) -> fb.Task:
    """20 clients of about 300 images, three classes each; a turn is one epoch."""
    found = loaded("mnist", options.data_dir)
    parts = data.partition(found.train_y[:6000], "classes:3", 20, key.fold("partition"))
    return task(found, MODEL[LINKS], parts, fb.LocalSGD(lr=case.lr, batch_size=20), key)


def task(found: data.Data, model: str, parts: list[np.ndarray], local: fb.LocalSGD, key: fb.Key) -> fb.Task:
    """The same model and test images for every method."""
    module = models.build(model, found, key.fold("model"))
    test = found.test_x[:TESTED], found.test_y[:TESTED]
    return fb.Task(module, found.train_x, found.train_y, parts, *test, local=local)


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
