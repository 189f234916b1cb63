"""What a client keeps to itself, as bytes for a StateStore: a frame that no link takes, with a checksum."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from fewbits.errors import WireError
from fewbits.wire import Frame, Header


def seal(x: Tensor, layout: str) -> bytes:
    """A float32 vector under the description of what it is made of."""
    words = np.ascontiguousarray(x.detach().cpu().numpy().astype("<f4", copy=False))
    return bytes(Frame(Header(_hash(layout), 0, 0, snapshot=True), words.data.cast("B")))


def open_sealed(data: bytes, numel: int, layout: str) -> Tensor:
    """Undo `seal`; WireError when the bytes are damaged, of another layout or another length.  # (numel,) float32"""
    frame = Frame.parse(data)
    if frame.header.codec != _hash(layout) or len(frame.payload) != 4 * numel:
        raise WireError(
            f"what a client kept is of another model or method: {len(frame.payload)} bytes with hash "
            f"{frame.header.codec:04X}, expected {4 * numel} with {_hash(layout):04X}"
        )
    return torch.from_numpy(np.frombuffer(frame.payload, "<f4").astype(np.float32))


def _hash(layout: str) -> int:
    return int.from_bytes(hashlib.blake2b(layout.encode(), digest_size=2, person=b"fewbits.kept").digest(), "big")
