"""Random subspaces: the Walsh-Hadamard transform, bases, and what a server pays for a round.

    python benchmarks/subspace.py [--large]

One thread, the best of several calls, memcpy of the same vector beside it: ratios move less than figures. --large adds
a basis for 124,439,808 parameters, which needs 4 GB.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

import fewbits as fb
from fewbits import kernels
from fewbits.codecs import Subspace, Total
from fewbits.codecs.transforms.bases import Basis
from fewbits.codecs.transforms.bases.arithmetic import butterflies_
from fewbits.engines.common.allocator import keep_memory
from kernels import seconds

GPT2 = 124_439_808  # parameters of its smallest size


def memcpy(n: int) -> float:
    """Copying n float32."""
    x = np.ones(n, np.float32)
    y = np.empty_like(x)
    return seconds(lambda: np.copyto(y, x))


def transforms() -> None:
    """In place on float32, against copying and against one torch operation per stage."""
    print("| length | memcpy, ms | transform, ms | / memcpy | torch, stage by stage, ms | times as fast |")
    print("|---|---|---|---|---|---|")
    for log in (12, 16, 20, 22, 24):
        x = np.zeros(2**log, np.float32)
        t = torch.from_numpy(x)
        copy, ours = memcpy(2**log), seconds(lambda x=x: kernels.hadamard.transform(x))
        eager = seconds(lambda t=t: butterflies_(t), 3)
        row = f"{1e3 * copy:.3f} | {1e3 * ours:.3f} | {ours / copy:.1f} | {1e3 * eager:.1f} | {eager / ours:.0f}"
        print(f"| 2^{log} | {row} |", flush=True)


def bases(numel: int, dim: int, repeats: int) -> None:
    """Drawing, expanding, projecting."""
    key, copy = fb.Key(7), memcpy(numel)
    x, s = torch.from_numpy(key.fold("x").normal(numel)), torch.from_numpy(key.fold("s").normal(dim))
    print(f"\nD = {numel:,}, d = {dim:,}; memcpy {1e3 * copy:.2f} ms\n")
    print("| basis | first use, ms | A s, ms | / memcpy | A^T x, ms | / memcpy | (D/d) abs(A^T x)^2 / abs(x)^2 |")
    print("|---|---|---|---|---|---|---|")
    for kind in ("fastfood", "hadamard", "sparse"):
        start = time.perf_counter()
        basis = Basis(numel, dim, key, kind)
        basis.expand(s)
        first = time.perf_counter() - start
        there, back = seconds(lambda b=basis: b.expand(s), repeats), seconds(lambda b=basis: b.project(x), repeats)
        row = f"{1e3 * there:.1f} | {there / copy:.1f} | {1e3 * back:.1f} | {back / copy:.1f} | {basis.captured(x):.3f}"
        print(f"| {kind} | {1e3 * first:.0f} | {row} |", flush=True)


def server(numel: int, dim: int, clients: int, expanded: int) -> None:
    """A round of so many clients, frames and all; expanding each message is extrapolated from a few."""
    spec, codec, rng = fb.Spec((numel,)), fb.chain(Subspace(dim, seed=None)), fb.Key(1)
    frames = []
    for client in range(20):  # their messages, again and again: what is in them costs nothing
        sender = fb.Sender(codec, spec, rng.fold(client), rng)
        frames.append(sender.send(torch.from_numpy(rng.fold("x", client).normal(numel))))

    def read() -> list[object]:
        receivers = [fb.Receiver(codec, spec, rng) for _ in range(clients)]
        return [r.receive_partial(frames[i % 20])[0] for i, r in enumerate(receivers)]

    def in_sum() -> torch.Tensor:
        total = Total(codec, spec)
        for i in range(clients):
            (partial,) = fb.Receiver(codec, spec, rng).receive_partial(frames[i % 20])
            total.add(partial, 1 / clients)
        return total.value()

    def one_by_one() -> None:
        total = torch.zeros(numel)
        for i in range(expanded):
            total += fb.Receiver(codec, spec, rng).receive(frames[i % 20])

    expansion = seconds(lambda: Basis(numel, dim, rng.fold(0, "subspace")).expand(torch.ones(dim)))
    reading, summed, each = seconds(read, 3), seconds(in_sum, 3), seconds(one_by_one, 1) * clients / expanded
    print(
        f"\nA server's round: {clients:,} clients, D = {numel:,}, d = {dim:,}, {clients * len(frames[0]):,} bytes in\n"
    )
    print("| | ms | times `expand once` |\n|---|---|---|")
    for name, value in (
        ("read and check every frame", reading),
        ("one expansion", expansion),
        ("read, add messages, expand once", summed),
        (f"read, expand each (from {expanded})", each),
    ):
        print(f"| {name} | {1e3 * value:,.1f} | {value / summed:.2f} |")
    print(f"\nreading and one expansion: {summed / (reading + expansion):.2f} times their sum")


def main() -> None:
    parser = argparse.ArgumentParser(description="Random subspaces on one core")
    parser.add_argument("--large", action="store_true", help=f"also D = {GPT2:,}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    transforms()
    bases(1_000_000, 4096, 9)
    if options.large:
        bases(GPT2, 16_384, 1)
    server(1_000_000, 4096, clients=1000, expanded=20)


if __name__ == "__main__":
    main()
