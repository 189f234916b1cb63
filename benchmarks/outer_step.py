"""Processor time of a dense outer step beside all-reduce and DiLoCo by hand, in turn; one thread a rank, loopback.

    python benchmarks/outer_step.py [--ranks 4 2] [--numbers 10000000] [--turns 12]

For machines on which other work runs, too: each turn does all three, and ratios are taken turn by turn. A figure is
the mean over ranks of a process's time, with that of gloo's threads. DiLoCo by hand checks nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import fewbits as fb

LAYERS = 10
RULE = {"lr": 0.7, "momentum": 0.9, "nesterov": True}


class ByHand:
    """DiLoCo in plain torch, in one vector that it keeps: difference, all-reduce, Nesterov's step, write back."""

    def __init__(self, model: nn.Module) -> None:
        self.model = list(model.parameters())
        self.outer = [p.detach().clone().requires_grad_() for p in self.model]
        self.flat = torch.zeros(sum(p.numel() for p in self.model))
        parts = torch.split(self.flat, [p.numel() for p in self.model])
        for p, part in zip(self.outer, parts, strict=True):
            p.grad = part.view(p.shape)
        self.optimizer = torch.optim.SGD(self.outer, **RULE)

    @torch.no_grad()
    def step(self) -> None:
        for theta, now in zip(self.outer, self.model, strict=True):
            assert theta.grad is not None
            torch.sub(theta, now, out=theta.grad)
        dist.all_reduce(self.flat)
        self.flat.div_(dist.get_world_size())
        self.optimizer.step()
        for theta, now in zip(self.outer, self.model, strict=True):
            now.copy_(theta)


def milliseconds(call: Callable[[], object]) -> float:
    """Processor time of this process in a call that all ranks begin together."""
    dist.barrier()
    began = time.process_time()
    call()
    spent = time.process_time() - began
    dist.barrier()
    return spent * 1e3


def model(numbers: int) -> nn.Module:
    width = round((numbers / LAYERS) ** 0.5)
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(LAYERS)))


@torch.no_grad()
def train(module: nn.Module) -> None:
    """What stands for inner steps."""
    for p in module.parameters():
        p.mul_(0.999)


def rank(number: int, ranks: int, numbers: int, turns: int, port: int) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=number, world_size=ranks)
    ours, theirs = model(numbers), model(numbers)
    vector = torch.randn(sum(p.numel() for p in ours.parameters()))
    by_hand = ByHand(theirs)
    outer = fb.distributed.OuterStep(ours, every=1, optimizer=fb.ServerSGD(**RULE))
    parties = [lambda: dist.all_reduce(vector), by_hand.step, outer.step]
    times: list[list[float]] = []
    for turn in range(turns + 2):
        train(ours)
        train(theirs)
        row = torch.tensor([milliseconds(party) for party in parties])
        vector.mul_(1 / ranks)
        dist.all_reduce(row)
        if turn > 1:  # the first ones warm up
            times.append((row / ranks).tolist())
    if number == 0:
        print_rows(ranks, times)
    dist.destroy_process_group()


def print_rows(ranks: int, times: list[list[float]]) -> None:
    columns = [statistics.median(column) for column in zip(*times, strict=True)]
    shown = []
    for other in (0, 1):
        low, middle, high = statistics.quantiles([row[2] / row[other] for row in times], n=4)
        shown.append(f"**{middle:.2f}** ({low:.2f}, {high:.2f})")
    print(f"| {ranks} | " + " | ".join(f"{x:.1f}" for x in columns) + " | " + " | ".join(shown) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 2])
    parser.add_argument("--numbers", type=int, default=10_000_000)
    parser.add_argument("--turns", type=int, default=12)
    options = parser.parse_args()
    print("| ranks | all-reduce, ms | DiLoCo by hand | ours | / all-reduce, median (quartiles) | / by hand |")
    print("|---|---|---|---|---|---|")
    for ranks in options.ranks:
        store: Any = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # pyright: ignore
        port = store.port
        del store  # rank 0 takes the port
        arguments = ranks, options.numbers, options.turns, port
        mp.start_processes(rank, arguments, nprocs=ranks, start_method="fork")


if __name__ == "__main__":
    main()
