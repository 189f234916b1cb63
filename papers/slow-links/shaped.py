"""The forecast of `fewbits plan --bandwidth` beside the measured time of outer steps on shaped loopback.

A token bucket holds back what a rank sends until its line would have carried it: the bytes to all receivers over the
bandwidth, and the latency once for each message. The rest is real: processes, gloo, frames, encoding and decoding.

    torchrun --nproc-per-node 4 papers/slow-links/shaped.py [--params 1258080] [--out runs/shaped.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

import fewbits as fb
from fewbits.analysis.forecast.ranks import RankLine, all_reduce, forecast_ranks
from fewbits.engines.distributed.message_gather import MessageGather
from fewbits.files import write_atomically

METHODS = ["dense", "fedpaq@bits=4", "topk@fraction=0.0156,bits=4"]
LINES = [RankLine(20e6, 0.01), RankLine(100e6, 0.01), RankLine(500e6, 0.01)]
STEPS = 5


def main() -> None:
    """Measure every method on every line; rank 0 prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=int, default=1_258_080)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, ranks, rows = dist.get_rank(), dist.get_world_size(), []
    for method in METHODS:
        forecast = forecast_ranks(lambda: one_tensor(options.params), method, ranks)
        for line in LINES:
            found = measured(method, line, options.params)
            rows.append([method, line.bits_per_second / 1e6, forecast.exchange_seconds(line), found])
    if rank:
        return
    print(f"{options.params:,} parameters, {ranks} ranks, latency 10 ms\n")
    print("| method | Mbit/s | forecast, s | measured, s | off by | all-reduce, s |\n|---|---|---|---|---|---|")
    for (method, mbit, expected, found), line in zip(rows, LINES * len(METHODS), strict=True):
        ring = all_reduce(options.params, ranks).exchange_seconds(line)
        off = f"{100 * (found / expected - 1):+.0f}%"
        print(f"| {method} | {mbit:g} | {expected:.3f} | {found:.3f} | {off} | {ring:.3f} |")
    if options.out:
        write_atomically(options.out, json.dumps(rows).encode())


def measured(method: str, line: RankLine, params: int) -> float:
    """Median seconds of an outer step."""
    model = one_tensor(params)
    outer = fb.distributed.OuterStep(model, method, every=1, timeout=120)
    shape(outer._gather, line)
    generator, times = torch.Generator().manual_seed(dist.get_rank()), []
    for _ in range(STEPS):
        model.numbers.data.add_(torch.randn(params, generator=generator), alpha=0.01)
        dist.barrier()
        began = time.perf_counter()
        outer.step()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def shape(gather: MessageGather, line: RankLine) -> None:
    """Hold back what this rank sends, as a line of this speed would."""
    exchanged = gather._exchanged

    def held_back(peers: list[int], local: Tensor, into: dict[int, Tensor], tag: int) -> dict[int, Tensor]:
        time.sleep(line.latency + 8 * local.nbytes * len(peers) / line.bits_per_second)
        return exchanged(peers, local, into, tag)

    gather._exchanged = held_back


def one_tensor(params: int) -> nn.Module:
    """A module of so many numbers."""
    model = nn.Module()
    model.numbers = nn.Parameter(torch.zeros(params))
    return model


if __name__ == "__main__":
    main()
