"""What factoring costs: a training step of a factored model against the same step of the dense one.

    python benchmarks/factor.py [--repeats 9]

Forward, cross-entropy, backward and a plain SGD step on one thread. Dense and factored steps alternate in one run; a
ratio is the median over the pairs. Freed memory is kept, as the engine's processes keep it. FedPara's authors report
1.43 for VGG16.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fewbits.engines.common.allocator import keep_memory
from fewbits.factor import Factorisation
from fewbits.models import build
from fewbits.rng import Key


@dataclass(frozen=True)
class Task:
    shape: tuple[int, ...]
    classes: int = 10


MNIST, CIFAR = Task((1, 28, 28)), Task((3, 32, 32))
CASES = [
    *[("vgg16", CIFAR, 64, ("classifier",), gamma) for gamma in (0.1, 0.5)],
    *[("cnn", MNIST, batch, (), 0.1) for batch in (10, 32, 64)],
    *[("cnn", CIFAR, batch, (), 0.1) for batch in (10, 32, 64)],
]
FORMS = ("fedpara", "pfedpara", "lowrank")


def stepper(model: nn.Module, task: Task, batch: int) -> Callable[[], None]:
    """One training step on one batch of noise."""
    x = torch.randn(batch, *task.shape, generator=Key(0).generator())
    y = torch.arange(batch) % task.classes
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)  # learned by heart, a batch has denormal, slow gradients

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def seconds(step: Callable[[], None], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        step()
    return (time.perf_counter() - began) / times


def compare(name: str, task: Task, batch: int, skip: tuple[str, ...], gamma: float, form: str, repeats: int) -> str:
    """One row: dense and factored step in ms, their ratio, parameters of both."""
    dense = build(name, task, Key(0))
    model = Factorisation(form, gamma, skip)(build(name, task, Key(0)))
    steps = [stepper(m, task, batch) for m in (dense, model)]
    times = 1 if seconds(steps[0], 1) > 0.1 else 20
    for step in steps:
        seconds(step, times)
    pairs = [tuple(seconds(step, times) for step in steps) for _ in range(repeats)]
    plain, ours = (1e3 * statistics.median(pair[i] for pair in pairs) for i in (0, 1))
    ratio = statistics.median(pair[1] / pair[0] for pair in pairs)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (dense, model)]
    side = "x".join(map(str, task.shape))
    return (
        f"| {name} {side} | {batch} | {form}, {gamma} | {sizes[0]:,} | {sizes[1]:,} | {plain:.1f} | {ours:.1f} "
        f"| **{ratio:.2f}** |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9, help="pairs per ratio")
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    keep_memory()
    print("| model | batch | form, gamma | dense numbers | numbers | dense, ms | factored, ms | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for name, task, batch, skip, gamma in CASES:
        for form in FORMS if (name, batch, gamma) in (("vgg16", 64, 0.1), ("cnn", 10, 0.1)) else FORMS[:1]:
            print(compare(name, task, batch, skip, gamma, form, repeats), flush=True)


if __name__ == "__main__":
    main()
