"""Client state, which never travels, as bytes for a StateStore: a frame that no link takes, with a checksum."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from fewbits.errors import WireError
from fewbits.wire import Frame, Header


def dump_client_state(x: Tensor, layout: str) -> bytes:
    """A float32 vector as bytes; `layout` describes its parts, and must be given again to load it."""
    words = np.ascontiguousarray(x.detach().cpu().numpy().astype("<f4", copy=False))
    return bytes(Frame(Header(_hash(layout), 0, 0, snapshot=True), words.data.cast("B")))


def load_client_state(data: bytes, numel: int, layout: str) -> Tensor:
    """Undo `dump_client_state`; WireError when the bytes are damaged, or of another layout or length.  # (numel,)"""
    frame = Frame.parse(data)
    if frame.header.codec != _hash(layout) or len(frame.payload) != 4 * numel:
        raise WireError(
            f"the stored client state is of another model or method: {len(frame.payload)} bytes with hash "
            f"{frame.header.codec:04X}, expected {4 * numel} with {_hash(layout):04X}"
        )
    return torch.from_numpy(np.frombuffer(frame.payload, "<f4").astype(np.float32))


def _hash(layout: str) -> int:
    return int.from_bytes(hashlib.blake2b(layout.encode(), digest_size=2, person=b"fewbits.kept").digest(), "big")
