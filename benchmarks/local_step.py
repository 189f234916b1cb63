"""A client's step on factors, or inside a subspace, against the same step of the plain model: processor time.

    python benchmarks/local_step.py [--pairs 15]

`LocalSGD` trains the CNN of 431,080 numbers on noise, 20 steps a call, on one thread; plain and other models in turn. A
ratio is the median over the pairs, with the quarters of the pairs beside it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from factor import MNIST
from fewbits.codecs import Basis
from fewbits.engines.common.allocator import keep_memory
from fewbits.factor import Factorisation
from fewbits.factor.coordinates import enter_subspace
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.local import LocalSGD
from fewbits.models import build
from fewbits.rng import Key

STEPS = 20


def cnn() -> nn.Module:
    return build("cnn", MNIST, Key(0))


def inside(dim: int) -> nn.Module:
    """The CNN in the default subspace."""
    return enter_subspace(cnn(), lambda numel: [Basis(numel, dim, Key(7), "sparse")])


def trainer(model: nn.Module, batch: int) -> Callable[[], object]:
    """Steps on noise; learned by heart, it would have denormal, slow gradients."""
    count = STEPS * batch
    x, y = torch.randn(count, *MNIST.shape, generator=Key(0).generator()), torch.arange(count) % MNIST.classes
    flat, local = FlatModel(model), LocalSGD(lr=1e-9, batch_size=batch)
    return lambda: local.train(flat, x, y, np.arange(count), Key(0))


def seconds(train: Callable[[], object]) -> float:
    """Processor time of one step."""
    began = time.process_time()
    train()
    return (time.process_time() - began) / STEPS


def compare(batch: int, models: dict[str, nn.Module], pairs: int) -> None:
    """A line for each model."""
    plain = trainer(cnn(), batch)
    others = {name: trainer(model, batch) for name, model in models.items()}
    for train in (plain, *others.values()):
        seconds(train)
    rows = [(seconds(plain), *(seconds(train) for train in others.values())) for _ in range(pairs)]
    for column, name in enumerate(others, 1):
        ratios = [row[column] / row[0] for row in rows]
        low, middle, high = statistics.quantiles(ratios, n=4)
        plain_ms, ours = (1e3 * statistics.median(row[at] for row in rows) for at in (0, column))
        print(
            f"| {name} | {batch} | {plain_ms:.2f} | {ours:.2f} | **{middle:.2f}** ({low:.2f}, {high:.2f}) |", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15, help="pairs per ratio")
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    keep_memory()
    print("| model | batch | plain, ms | ours, ms | ratio (quarters) |")
    print("|---|---|---|---|---|")
    compare(10, {form: Factorisation(form, 0.1)(cnn()) for form in ("fedpara", "pfedpara", "lowrank")}, pairs)
    compare(20, {f"inside, d = {dim:,}": inside(dim) for dim in (4096, 16_384)}, pairs)


if __name__ == "__main__":
    main()
