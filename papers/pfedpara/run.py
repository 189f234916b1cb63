"""pFedPara on MNIST, two digits a client, each judged on its own held-out images; and what breaks it.

Hyeon-Woo, Ye-Bin, Oh, ICLR 2022 (arXiv 2108.06098), section 3.4. 50 clients, the paper's network 784-256-10; cut in
data and rounds to what two cores do (README.md beside this file says how).

    python papers/pfedpara/run.py --data-dir DIR [--out runs/pfedpara]     # resumes where it was stopped
    python papers/pfedpara/run.py --data-dir DIR --tune                    # how the learning rates were found
    python papers/pfedpara/table.py [--out runs/pfedpara]                  # the tables of README.md
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

import fewbits as fb
from fewbits import data
from fewbits.factor import Factorisation
from fewbits.factor.factors import Factors
from fewbits.files import write_atomically
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.local import evaluate, select

CLIENTS, PER_ROUND, SPLIT = 50, 10, "classes:2"
TRAINED, HELD = 30, 100  # images of each client
FIRST = 20_000  # training images that they are drawn from
RATES = (0.003, 0.01, 0.03, 0.1)
SHARED, PRIVATE = ("X1", "Y1"), ("X2", "Y2")

Change = Callable[[nn.Module, fb.Key], None]  # of a factored model, before the first round


@dataclass(frozen=True)
class Case:
    """One row of the tables."""

    name: str
    method: str
    settings: dict[str, str] = field(default_factory=dict)
    factor: Factorisation | None = None  # instead of the method's
    change: Change | None = None
    lr: float = 0.03
    ten: bool = False  # judge a client's own model on all ten digits
    each: bool = False  # every client draws its own W2
    seeds: tuple[int, ...] = (0,)
    rounds: int | None = None  # None: what the command line says


def cases() -> list[Case]:
    """The rivals, then variants of pFedPara, each at the best learning rate that --tune found."""
    own, every = {"gamma": "0.5"}, (0, 1, 2)
    plain = Factorisation("fedpara", 0.5)
    found = [
        Case("dense", "dense", lr=0.1, seeds=every),
        Case("fedpara", "fedpara", own, seeds=every),
        Case("fedper", "fedper", seeds=every),
        Case("local", "local", seeds=every),
        Case("pfedpara", "pfedpara", own, seeds=every),
        Case("W2 of rms 0.1", "pfedpara", own, change=scaled(0.1), seeds=every),
        Case("X2 zero, Y2 of variance 1", "pfedpara", own, change=from_zero(1), seeds=every),
        Case("W2 of rms 0.001", "pfedpara", own, change=scaled(0.001)),
        Case("W2 of rms 1", "pfedpara", own, change=scaled(1.0)),
    ]
    for init, lr in (("fan_in", 0.03), ("fan_out", 0.003)):
        how = Factorisation("pfedpara", 0.5, init=init)
        found += [Case(f"every factor by He, {init}", "dense", factor=how, lr=lr)]
    return [
        *found,
        Case("no + 1", "dense", factor=plain, change=keep_second),
        Case("no + 1, every client draws its W2", "dense", factor=plain, change=keep_second, each=True),
        Case("learning rate 0.1", "pfedpara", own, lr=0.1),
        Case("pfedpara on all ten digits", "pfedpara", own, ten=True),
        Case("fedper on all ten digits", "fedper", ten=True),
        Case("fedper, 80 rounds", "fedper", rounds=80),
        Case("pfedpara, 80 rounds", "pfedpara", own, rounds=80),
        Case("W2 of rms 0.1, 80 rounds", "pfedpara", own, change=scaled(0.1), rounds=80),
    ]


def tuning() -> list[Case]:
    """Every case at every learning rate, with a seed that no table uses."""
    found = [case for case in cases() if not (case.ten or case.name.startswith("learning") or case.rounds)]
    return [replace(case, name=f"{case.name}, lr {lr:g}", lr=lr, seeds=(9,)) for case in found for lr in RATES]


def factors(model: nn.Module) -> list[Factors]:
    """Of every factored weight."""
    return [part for part in model.modules() if isinstance(part, Factors)]


@torch.no_grad()
def multiply(owner: Factors, names: tuple[str, ...], by: float) -> None:
    """Multiply a product by multiplying its factors equally."""
    for name in names:
        owner.get_parameter(name).mul_(by ** (1 / len(names)))


@torch.no_grad()
def rms(x: torch.Tensor) -> float:
    """Root mean square."""
    return x.square().mean().sqrt().item()


def scaled(size: float) -> Change:
    """Draw W2's factors with a root mean square of W2, and give W He's variance again by W1."""

    @torch.no_grad()
    def change(model: nn.Module, key: fb.Key) -> None:
        generator = key.fold("second").generator()
        for owner in factors(model):
            before = rms(owner())
            for name in PRIVATE:
                part = owner.get_parameter(name)
                part.copy_(torch.randn(part.shape, generator=generator))
            multiply(owner, PRIVATE, size / rms(owner.X2 @ owner.Y2.T))
            multiply(owner, SHARED, before / rms(owner()))

    return change


def from_zero(variance: float) -> Change:
    """W2 = 0 as in LoRA: one factor zero, the other large, so that W2 moves fast from where it is."""

    @torch.no_grad()
    def change(model: nn.Module, key: fb.Key) -> None:
        generator = key.fold("second").generator()
        for owner in factors(model):
            before = rms(owner())
            owner.X2.zero_()
            owner.Y2.copy_(torch.randn(owner.Y2.shape, generator=generator) * variance**0.5)
            multiply(owner, SHARED, before / rms(owner()))

    return change


def keep_second(model: nn.Module, key: fb.Key) -> None:
    """W = W1 o W2 with a private W2 of root mean square 1."""
    scaled(1.0)(model, key)
    for owner in factors(model):
        owner.private_names = frozenset(PRIVATE)


@torch.no_grad()
def redraw(model: nn.Module, key: fb.Key) -> None:
    """Another W2 of the same root mean square."""
    generator = key.generator()
    for owner in factors(model):
        before = rms(owner.X2 @ owner.Y2.T)
        for name in PRIVATE:
            factor = owner.get_parameter(name)
            factor.copy_(torch.randn(factor.shape, generator=generator))
        multiply(owner, PRIVATE, before / rms(owner.X2 @ owner.Y2.T))


def main() -> None:
    """Run every case for every seed that has no result yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/pfedpara"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tune", action="store_true", help="the grid of learning rates, with a seed of its own")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    if options.tune:
        options.out, options.seeds = options.out / "tuning", [9]
    options.out.mkdir(parents=True, exist_ok=True)
    settle(options.out / "config", {"rounds": options.rounds})
    mnist = normalised(data.load("mnist", options.data_dir))
    for seed in options.seeds:
        for case in tuning() if options.tune else cases():
            path = options.out / f"{case.name.replace(' ', '_').replace(',', '')}-seed{seed}.json"
            if options.only in case.name and seed in case.seeds and not path.exists():
                result = play(case, seed, mnist, options)
                write_atomically(path, json.dumps(result).encode())
                print(
                    f"{case.name:36s} seed {seed}: own {result['own']:.4f}, spread {result['spread']:.4f},"
                    f" worst {result['worst']:.4f}, public {result['public']:.4f}",
                    flush=True,
                )


def settle(path: Path, config: dict[str, float]) -> None:
    """Keep the configuration beside the results; refuse to mix results of two."""
    if path.exists() and json.loads(path.read_text()) != config:
        raise SystemExit(
            f"{path} holds results of {path.read_text()}; asked for {json.dumps(config)}: give another --out"
        )
    write_atomically(path, json.dumps(config).encode())


def normalised(mnist: data.Data) -> data.Data:
    """Pixels of mean 0 and variance 1: in [-1, 1], with the background at -1, all learn far less in 20 rounds."""
    x, test = (((pixels.float() / 255 - 0.1307) / 0.3081) for pixels in (mnist.train_x[:FIRST], mnist.test_x[:1000]))
    return replace(mnist, train_x=x, train_y=mnist.train_y[:FIRST], test_x=test)


def play(case: Case, seed: int, mnist: data.Data, options: argparse.Namespace) -> dict:
    """One run; how it ended."""
    key = fb.Key(seed)
    method = fb.methods.build(case.method, case.settings)
    if case.factor is not None:
        method = replace(method, factor=case.factor)
    rounds = case.rounds or options.rounds
    task = build(mnist, key, case.lr)
    if case.ten:
        task = on_ten_digits(task, mnist)
    method.prepare(task.model, key.fold("factor"))
    if case.change is not None:
        case.change(task.model, key)
    result = {"case": case.name, "seed": seed}
    if case.each:
        return result | by_hand(task, method, key, rounds)
    schedule = fb.simulation.Schedule(rounds, PER_ROUND, evaluate_every=rounds, processes=options.processes)
    reports = fb.simulation.Federation(task, method, schedule, key).run().reports
    last = reports[-1]
    rows = torch.from_numpy(np.concatenate(task.holdout))
    public, _ = evaluate(FlatModel(task.model), task.x[rows], task.y[rows])  # private parts as they began
    return result | {
        "own": last.personal_accuracy,
        "spread": last.personal_spread,
        "worst": last.personal_worst,
        "public": public,
        "up": last.up_frame_bytes,
        "down": last.down_frame_bytes,
        "skipped": sum(r.skipped for r in reports),
    }


def build(mnist: data.Data, key: fb.Key, lr: float) -> fb.simulation.Task:
    """30 images of two digits for each client to train on, 100 others of the same digits to judge it by."""
    parts = data.partition(mnist.train_y, SPLIT, CLIENTS, key.fold("partition"))
    some = []
    for client, rows in enumerate(parts):
        order = key.fold("slice", client).permutation(len(rows))
        some.append(rows[order[: TRAINED + HELD]])
    parts, held = data.hold_out(some, HELD / (TRAINED + HELD), key.fold("holdout"))
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(key.fold("model").word() & (2**63 - 1))
        model = nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
    local = fb.LocalSGD(lr=lr, batch_size=10, epochs=2)
    return fb.simulation.Task(model, mnist.train_x, mnist.train_y, parts, local=local, holdout=held)


def on_ten_digits(task: fb.simulation.Task, mnist: data.Data) -> fb.simulation.Task:
    """The same training; every client is judged on the first 1,000 test images."""
    rows = np.arange(len(task.x), len(task.x) + 1000)
    x, y = torch.cat([task.x, mnist.test_x[:1000]]), torch.cat([task.y, mnist.test_y[:1000]])
    return replace(task, x=x, y=y, holdout=[rows] * CLIENTS)


def by_hand(task: fb.simulation.Task, method: fb.Method, key: fb.Key, rounds: int) -> dict:
    """The same federation by its ends, so that clients can begin with private parts of their own."""
    weight = float(sum(map(len, task.parts)))
    models = [copy.deepcopy(task.model) for _ in task.parts]
    for number, model in enumerate(models):
        redraw(model, key.fold("second", number))
    server = fb.Server(task.model, method, key.fold("server"), total_weight=weight)
    clients = [fb.Client(model, method, key.fold(c), c) for c, model in enumerate(models)]
    for number in range(1, rounds + 1):
        for c in server.sample(CLIENTS, PER_ROUND):
            clients[c].receive(server.bundle(c))
            steps(models[c], task, c, key.fold("round", number, "client", c))
            server.accept(c, clients[c].reply(), len(task.parts[c]))
        server.step()
    own = []
    for c, client in enumerate(clients):
        client.receive(server.bundle(c))
        own.append(right(models[c], task, task.holdout[c]))
    own.sort()
    return {
        "own": statistics.fmean(own),
        "spread": statistics.pstdev(own),
        "worst": statistics.fmean(own[: CLIENTS // 10]),
        "public": statistics.fmean(right(task.model, task, rows) for rows in task.holdout),
    }


def steps(model: nn.Module, task: fb.simulation.Task, client: int, key: fb.Key) -> None:
    """What `LocalSGD` does."""
    optimizer = torch.optim.SGD(model.parameters(), lr=task.local.lr)
    for batch in task.local.batches(task.parts[client], key):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(select(task.x, batch)), task.y[batch]).backward()
        optimizer.step()


@torch.no_grad()
def right(model: nn.Module, task: fb.simulation.Task, rows: np.ndarray) -> float:
    """Accuracy on some rows."""
    where = torch.from_numpy(rows)
    return (model(select(task.x, where)).argmax(1) == task.y[where]).float().mean().item()


if __name__ == "__main__":
    main()
