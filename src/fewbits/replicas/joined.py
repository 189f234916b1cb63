"""joined: the pieces of a message end to end, in memory that a long one is quickly written to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from fewbits.codecs import large
from fewbits.wire.frame import HEADER_BYTES


class Room:
    """Memory for a message, whose values may be computed where they will stand as a dense frame's payload.

    Args:
        numel: how many values there are.
        dtype: their type.
        beside: most bytes that follow the frame.

    >>> room = Room(2, torch.float32)
    >>> len(room.message), room.values.shape
    (24, torch.Size([2]))
    """

    def __init__(self, numel: int, dtype: torch.dtype, beside: int = 0) -> None:
        end = HEADER_BYTES + numel * dtype.itemsize
        self.message = large.empty(end + beside, torch.uint8)  # (header, payload, beside)
        self.values: Tensor = self.message[HEADER_BYTES:end].view(dtype)  # (numel,)


def joined(pieces: Sequence[bytes | memoryview], room: Room | None = None) -> memoryview:
    """All pieces, each copied once; in a room those that lie in their places already are not.

    >>> bytes(joined([b"ab", memoryview(b"c")]))
    b'abc'
    """
    parts = [memoryview(piece).cast("B") for piece in pieces if len(piece)]
    ends = [0, *accumulate(map(len, parts))]
    if room is None or not _fit(parts, ends, room.message):
        room = None
    out = (large.empty(ends[-1], torch.uint8) if room is None else room.message[: ends[-1]]).numpy().data
    for part, (start, end) in zip(parts, pairwise(ends), strict=True):
        if room is None or _address(part) != room.message.data_ptr() + start:
            out[start:end] = part
    return out


def _fit(parts: Sequence[memoryview], ends: Sequence[int], memory: Tensor) -> bool:
    """Whether no part would be overwritten before it is copied: each is in its place, or elsewhere."""
    first, last = memory.data_ptr(), memory.data_ptr() + len(memory)
    placed = ((_address(part), len(part), first + start) for part, start in zip(parts, ends, strict=False))
    return ends[-1] <= len(memory) and all(
        at == place or at + size <= first or at >= last for at, size, place in placed
    )


def _address(part: memoryview) -> int:
    return np.frombuffer(part, np.uint8).ctypes.data
