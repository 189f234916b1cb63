"""The forecast of `fewbits plan --bandwidth` beside the measured time of outer steps on shaped loopback.

A token bucket holds back what a rank sends until its line would have carried it: the bytes to all receivers over the
bandwidth, and the latency once for each message. The rest is real: processes, gloo, frames, encoding and decoding.

    torchrun --nproc-per-node 4 papers/slow-links/shaped.py [--cores 2] [--repeat 3] [--out runs/shaped.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

import fewbits as fb
from fewbits.analysis.forecast.ranks import RankForecast, RankLine, all_reduce, forecast_ranks
from fewbits.engines.distributed.message_gather import MessageGather
from fewbits.files import write_atomically

METHODS = ["dense", "fedpaq@bits=4", "topk@fraction=0.0156,bits=4"]
LINES = [RankLine(20e6, 0.01), RankLine(100e6, 0.01), RankLine(500e6, 0.01)]
STEPS = 7


def main() -> None:
    """Measure every method on every line; rank 0 prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=int, default=1_258_080)
    parser.add_argument("--cores", type=float, default=2.0, help="of this machine, which all ranks share")
    parser.add_argument("--repeat", type=int, default=1, help="rounds over all methods and lines; their median counts")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    expected: dict[tuple[str, RankLine], list[float]] = {}
    found: dict[tuple[str, RankLine], list[float]] = {}
    for _ in range(options.repeat):
        for method in METHODS:
            forecast = forecast_at_rank_0(method, options, ranks)
            for line in LINES:
                found.setdefault((method, line), []).append(measured(method, line, options.params))
                expected.setdefault((method, line), []).append(forecast.exchange_seconds(line) if forecast else 0.0)
    if rank:
        return
    print(f"{options.params:,} parameters, {ranks} ranks on {options.cores:g} cores, latency 10 ms\n")
    print("| method | Mbit/s | forecast, s | measured, s | off by | all-reduce, s |\n|---|---|---|---|---|---|")
    for (method, line), times in found.items():
        ours, theirs = statistics.median(expected[method, line]), statistics.median(times)
        ring = all_reduce(options.params, ranks).exchange_seconds(line)
        off = f"{100 * (theirs / ours - 1):+.0f}%"
        print(f"| {method} | {line.bits_per_second / 1e6:g} | {ours:.3f} | {theirs:.3f} | {off} | {ring:.3f} |")
    if options.out:
        rows = [
            [method, line.bits_per_second, expected[method, line], times] for (method, line), times in found.items()
        ]
        write_atomically(options.out, json.dumps(rows).encode())


def forecast_at_rank_0(method: str, options: argparse.Namespace, ranks: int) -> RankForecast | None:
    """The forecast, made while the other ranks wait; None at those."""
    made = None
    if not dist.get_rank():
        share = ranks / options.cores
        made = forecast_ranks(lambda: one_tensor(options.params), method, ranks, ranks_per_core=share)
    dist.barrier()
    return made


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

    def held_back(
        local: Mapping[int, Tensor], lengths: Mapping[int, int], dtype: torch.dtype, tag: int
    ) -> dict[int, Tensor]:
        sent = sum(x.nbytes for rank, x in local.items() if rank != gather.rank)
        time.sleep(line.latency + 8 * sent / line.bits_per_second)
        return exchanged(local, lengths, dtype, tag)

    gather._exchanged = held_back


def one_tensor(params: int) -> nn.Module:
    """A module of so many numbers."""
    model = nn.Module()
    model.numbers = nn.Parameter(torch.zeros(params))
    return model


if __name__ == "__main__":
    main()
