"""Collect: what every process has to tell, at rank 0; and rank 0's answer that all have told it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fewbits.engines.distributed.world import World
from fewbits.errors import WireError

LENGTHS, TEXTS, ALL = 8, 9, 10  # tags that no Exchange uses


def collect(world: World, data: bytes | memoryview, limit: int) -> list[memoryview]:
    """Everybody's bytes by rank, `limit` at most each, at rank 0; nothing at the others. All must call it."""
    own = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    if world.rank:
        for tensor, tag in ((torch.tensor([len(own)]), LENGTHS), (own, TEXTS)):
            world.wait(dist.isend(tensor, 0, tag=tag), 0)
        return []
    lengths = {rank: _expected(torch.zeros(1, dtype=torch.int64), rank, LENGTHS) for rank in range(1, world.size)}
    texts: dict[int, tuple[Tensor, Any]] = {}
    for rank, (length, work) in lengths.items():
        world.wait(work, rank)
        if not 0 < int(length) <= limit:
            raise WireError(f"node {rank} tells of {int(length):,} bytes; 1 to {limit:,} are expected")
        texts[rank] = _expected(torch.empty(int(length), dtype=torch.uint8), rank, TEXTS)
    for rank, (_, work) in texts.items():
        world.wait(work, rank)
    return [memoryview(x.numpy().data) for x in (own, *(text for text, _ in texts.values()))]


def all_reported(world: World) -> None:
    """Return once rank 0 has collected from all; all must call it, after `collect`."""
    word = torch.zeros(1, dtype=torch.uint8)
    if world.rank:
        world.wait(dist.irecv(word, 0, tag=ALL), 0)
        return
    for work, rank in [(dist.isend(word, rank, tag=ALL), rank) for rank in range(1, world.size)]:
        world.wait(work, rank)


def _expected(tensor: Tensor, rank: int, tag: int) -> tuple[Tensor, Any]:
    return tensor, dist.irecv(tensor, rank, tag=tag)
