"""Accuracy with and without liars, for each rule: `python examples/robust_table.py [--rounds 10] [--seeds 0 1 2]`.

20 clients share scikit-learn's digits; all of them take part in every round. A liar trains, then sends another update:
its sign flipped, that 9 or 19 times, 1000 times as long, or noise of the norm that its update had. Prints the tables of
docs/robust.md: mean accuracy on the test set over the seeds, in percent, and in brackets the worst seed.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

import fewbits as fb
from fewbits import data

CLIENTS, STEPS, LR = 20, 5, 0.5
LIARS = {1: (7,), 3: (0, 7, 19)}
RULES = {
    "mean, no bound": "bounded+{}@times=0",
    "mean": "{}",
    "median": "median+{}",
    "trimmed": "trimmed+{}",
    "Krum": "krum+{}",
    "multi-Krum": "multikrum+{}",
    "geometric median": "geomedian+{}",
}
Lie = Callable[[Tensor, torch.Generator], Tensor]
LIES: dict[str, Lie] = {
    "flipped": lambda x, g: -x,
    "flipped x9": lambda x, g: -9 * x,
    "flipped x19": lambda x, g: -19 * x,
    "x1000": lambda x, g: 1000 * x,
    "random": lambda x, g: torch.randn(x.shape, generator=g) * (x.norm() / x.numel() ** 0.5),
}


def method(rule: str, codec: str) -> str:
    """The text of a rule over a codec: options come last."""
    name, _, options = codec.partition("@")
    text = RULES[rule].format(name)
    return f"{text}{',' if '@' in text else '@'}{options}" if options else text


def accuracy(text: str, split: str, seed: int, rounds: int, liars: Sequence[int], lie: Lie | None) -> float:
    """Of the model after a run: real frames up, and every client at the server's model."""
    key, noise = fb.Key(seed), torch.Generator().manual_seed(seed)
    x, y, test_x, test_y = digits(split, key)
    model = nn.Linear(x.shape[-1], 10)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    server = fb.Server(model, text, key.fold("server"), total_weight=float(y.numel()))
    ends = [server.exchange.sender(key.fold("client", i)) for i in range(CLIENTS)]
    for _ in range(rounds):
        updates, version = trained(model, x, y), server.broadcast.version
        for i, end in enumerate(ends):
            update = {name: part[i] for name, part in updates.items()}
            if lie is not None and i in liars:
                update = {name: lie(part, noise) for name, part in update.items()}
            frame = b"".join(end.pieces(update, version, server.exchange.of_round(version)))
            server.accept(i, frame, weight=y.shape[1])
            end.commit()
        server.step()
    with torch.no_grad():
        return 100 * float((model(test_x).argmax(1) == test_y).float().mean())


@lru_cache
def digits(split: str, key: fb.Key) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (clients, n, 64), y (clients, n), and the test set; all clients have as many rows as the smallest."""
    found = data.load("digits")
    parts = data.partition(found.train_y, split, CLIENTS, key.fold("split"))
    n = min(map(len, parts))
    rows = torch.stack([torch.as_tensor(part[:n]) for part in parts])
    return found.train_x.flatten(1)[rows], found.train_y[rows], found.test_x.flatten(1), found.test_y


def trained(model: nn.Linear, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """start - end of STEPS full-batch steps of all clients at once.  # (clients, *shape) by name"""
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    weight, bias = (start[name].expand(CLIENTS, *start[name].shape) for name in ("weight", "bias"))
    truth = torch.nn.functional.one_hot(y, 10)
    for _ in range(STEPS):
        wrong = (torch.baddbmm(bias[:, None], x, weight.mT).softmax(-1) - truth) / x.shape[1]
        weight, bias = weight - LR * wrong.mT @ x, bias - LR * wrong.sum(1)
    return {"weight": start["weight"] - weight, "bias": start["bias"] - bias}


def table(codec: str, split: str, rounds: int, seeds: Sequence[int]) -> None:
    """One table: a row per rule, a column per attack."""
    attacks = [(0, ""), *itertools.product(LIARS, LIES)]
    heads = ["rule", "honest", *(f"{count} in {CLIENTS}: {name}" for count, name in attacks[1:])]
    print(f"\n{codec}, {split}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for rule in RULES:
        cells = [cell(method(rule, codec), split, rounds, seeds, count, name) for count, name in attacks]
        print(f"| {rule} | {' | '.join(cells)} |", flush=True)


def cell(text: str, split: str, rounds: int, seeds: Sequence[int], count: int, lie: str) -> str:
    """Mean over the seeds, and the worst of them."""
    found = [accuracy(text, split, seed, rounds, LIARS.get(count, ()), LIES.get(lie)) for seed in seeds]
    return f"{sum(found) / len(found):.0f} ({min(found):.0f})"


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--codecs", nargs="+", default=["dense", "topk@fraction=0.05,bits=32"])
    parser.add_argument("--splits", nargs="+", default=["iid", "classes:3"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for codec, split in itertools.product(options.codecs, options.splits):
        table(codec, split, options.rounds, options.seeds)


if __name__ == "__main__":
    main()
