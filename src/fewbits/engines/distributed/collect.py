"""Collect: bring bytes of all processes to rank 0, and tell all when rank 0 has them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fewbits.engines.distributed.world import World
from fewbits.errors import WireError

LENGTHS, TEXTS, DONE = 8, 9, 10  # tags; `FrameExchange` uses others


def collect(world: World, data: bytes | memoryview, max_bytes: int) -> list[memoryview]:
    """At rank 0, the bytes of all processes by rank, at most `max_bytes` each; elsewhere []. All must call it."""
    local = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    if world.rank:
        for tensor, tag in ((torch.tensor([len(local)]), LENGTHS), (local, TEXTS)):
            world.wait(dist.isend(tensor, 0, tag=tag), 0)
        return []
    lengths = {rank: _expect(torch.zeros(1, dtype=torch.int64), rank, LENGTHS) for rank in range(1, world.size)}
    texts: dict[int, tuple[Tensor, Any]] = {}
    for rank, (length, work) in lengths.items():
        world.wait(work, rank)
        if not 0 < int(length) <= max_bytes:
            raise WireError(f"node {rank} reports {int(length):,} bytes; 1 to {max_bytes:,} are allowed")
        texts[rank] = _expect(torch.empty(int(length), dtype=torch.uint8), rank, TEXTS)
    for rank, (_, work) in texts.items():
        world.wait(work, rank)
    return [memoryview(x.numpy().data) for x in (local, *(text for text, _ in texts.values()))]


def wait_for_collection(world: World) -> None:
    """Return once rank 0 has collected from all processes; all must call it, after `collect`."""
    signal = torch.zeros(1, dtype=torch.uint8)
    if world.rank:
        world.wait(dist.irecv(signal, 0, tag=DONE), 0)
        return
    for work, rank in [(dist.isend(signal, rank, tag=DONE), rank) for rank in range(1, world.size)]:
        world.wait(work, rank)


def _expect(tensor: Tensor, rank: int, tag: int) -> tuple[Tensor, Any]:
    return tensor, dist.irecv(tensor, rank, tag=tag)
