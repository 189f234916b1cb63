"""The best bare simulation loop we can write by hand: federated averaging, dense sums, no encoding.

The library's engine is measured against it. Two processes of one thread draw clients from one counter; each has one
model whose parameters are views of a flat vector, channels_last, and steps in place. Data, weights and sums lie in
shared memory. Only the data and the model come from fewbits; the loop is torch alone.

    python benchmarks/bare_loop.py --workload w1 --data-dir /path/to/cifar10 --rounds 5
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass

import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fewbits.data import Data, load
from fewbits.models import build
from fewbits.rng import Key

LR = 0.05
PROCESSES = 2


@dataclass(frozen=True)
class Workload:
    clients: int
    examples: int  # of each client
    per_round: int
    batch: int


WORKLOADS = {"w1": Workload(1_000, 50, 50, 10), "w3": Workload(10_000, 5, 100, 5)}


@dataclass(frozen=True)
class Shared:
    """Everything that the processes share; all tensors are in shared memory."""

    x: Tensor  # (n, h, w, c) float32: channels last in memory
    y: Tensor  # (n,)
    rows: Tensor  # (clients, examples) rows of x
    weights: Tensor  # (P,)
    sums: Tensor  # (processes, P) of end - start over the process's clients
    chosen: Tensor  # (per_round,) clients of this round
    next: Tensor  # (1,) position in `chosen`; guarded by the lock


def flatten(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Lay parameters and gradients end to end; convolution weights channels_last."""
    parameters = list(module.parameters())
    flat = torch.empty(sum(p.numel() for p in parameters))
    grads = torch.zeros_like(flat)
    start = 0
    for p in parameters:
        for buffer in (flat, grads):
            part = buffer[start : start + p.numel()]
            if p.dim() == 4:
                view = part.view(p.shape[0], *p.shape[2:], p.shape[1]).permute(0, 3, 1, 2)
            else:
                view = part.view(p.shape)
            if buffer is flat:
                view.copy_(p.data)
                p.data = view
            else:
                p.grad = view
        start += p.numel()
    return flat, grads


def channels_last(images: Data) -> Tensor:
    """The training images as floats in -1..1.  # (n, h, w, c)"""
    return images.train_x.permute(0, 2, 3, 1).float().div_(127.5).sub_(1)


def train(module: nn.Module, flat: Tensor, grads: Tensor, x: Tensor, y: Tensor, rows: Tensor, work: Workload) -> None:
    """One client's steps, in place."""
    for batch in rows[torch.randperm(work.examples)].split(work.batch):
        grads.zero_()
        images = x.index_select(0, batch).permute(0, 3, 1, 2)
        cross_entropy(module(images), y.index_select(0, batch)).backward()
        flat.add_(grads, alpha=-LR)


def worker(rank: int, work: Workload, shared: Shared, module: nn.Module, lock, start, end) -> None:
    torch.set_num_threads(1)
    flat, grads = flatten(module)
    total = shared.sums[rank]
    while True:
        start.wait()
        if shared.next.item() < 0:
            return
        total.zero_()
        while True:
            with lock:
                position = shared.next.item()
                shared.next.add_(1)
            if position >= work.per_round:
                break
            flat.copy_(shared.weights)
            train(module, flat, grads, shared.x, shared.y, shared.rows[shared.chosen[position]], work)
            total.add_(flat).sub_(shared.weights)
        end.wait()


def run(workload: str, data_dir: str, rounds: int) -> list[float]:
    """Wall seconds of each round, after one round of warm-up."""
    work = WORKLOADS[workload]
    data = load("cifar10", data_dir)
    module = build("simcnn", data, Key(0))
    weights, _ = flatten(module)
    shared = Shared(
        x=channels_last(data).share_memory_(),
        y=data.train_y.share_memory_(),
        rows=torch.randperm(len(data.train_y))[: work.clients * work.examples].view(work.clients, -1).share_memory_(),
        weights=weights.clone().share_memory_(),
        sums=torch.zeros(PROCESSES, len(weights)).share_memory_(),
        chosen=torch.zeros(work.per_round, dtype=torch.int64).share_memory_(),
        next=torch.zeros(1, dtype=torch.int64).share_memory_(),
    )
    context = mp.get_context("spawn")
    lock, start, end = context.Lock(), *(context.Barrier(PROCESSES + 1, timeout=120) for _ in range(2))
    fresh = build("simcnn", data, Key(0))
    processes = [
        context.Process(target=worker, args=(rank, work, shared, fresh, lock, start, end), daemon=True)
        for rank in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    seconds = []
    for _ in range(rounds + 1):
        shared.chosen.copy_(torch.randperm(work.clients)[: work.per_round])
        shared.next.zero_()
        began = time.perf_counter()
        start.wait()
        end.wait()
        shared.weights.add_(shared.sums.sum(0), alpha=1 / work.per_round)
        seconds.append(time.perf_counter() - began)
    shared.next.fill_(-1)
    start.wait()
    for process in processes:
        process.join()
    return seconds[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds per round of a bare federated-averaging loop.")
    parser.add_argument("--workload", choices=list(WORKLOADS), default="w1")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    seconds = run(args.workload, args.data_dir, args.rounds)
    print(f"{args.workload}: median {statistics.median(seconds):.3f} s per round; all {[round(s, 3) for s in seconds]}")


if __name__ == "__main__":
    main()
