"""FrameRoom: memory for an update, in which the frame of an update that travels as it is needs no copy."""

from __future__ import annotations

import numpy as np
import torch

from fewbits.codecs import large

ROOM = 64  # bytes before the update, for a frame's header; the update begins where a line of the caches does
CPU = torch.device("cpu")


class FrameRoom:
    """Room for a frame's header, then an update.

    Where a frame's payload is the update itself, as with dense methods, the frame is whole once its header is written
    before it.

    Args:
        numel: float32 numbers of an update.
        device: where updates are computed; only the CPU's memory holds frames.

    Example:
        >>> room = FrameRoom(2)
        >>> _ = room.update.copy_(torch.tensor([1.0, 2.0]))
        >>> [bytes(piece).hex() for piece in room.joined([b"head", room.update.numpy().data.cast("B")])]
        ['686561640000803f00000040']
    """

    def __init__(self, numel: int, device: torch.device = CPU) -> None:
        size = ROOM + 4 * numel
        memory = large.empty(size if device.type == "cpu" else 0, torch.uint8)
        self._memory = memory.numpy().data
        there = memory if device.type == "cpu" else torch.empty(size, dtype=torch.uint8, device=device)
        self.update = there[ROOM:].view(torch.float32)  # (numel,)

    def joined(self, pieces: list[bytes | memoryview]) -> list[bytes | memoryview]:
        """The frame as one piece in this memory, if its payload is the update; else the pieces as they are."""
        head, payload = b"".join(pieces[:-1]), pieces[-1]
        if len(payload) != self.update.nbytes or len(head) > ROOM or not len(payload):
            return pieces
        if np.frombuffer(payload, np.uint8).__array_interface__["data"][0] != self.update.data_ptr():
            return pieces
        start = ROOM - len(head)
        self._memory[start:ROOM] = head
        return [self._memory[start:]]
