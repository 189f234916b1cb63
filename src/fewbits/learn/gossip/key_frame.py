"""Key frames: a node's whole public vector, for a neighbour that has lost count."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fewbits.errors import WireError
from fewbits.links import Receiver, Sender
from fewbits.wire import Frame


def write(sender: Sender, public: Tensor) -> bytes:
    """The public vector in float32, under the header that the next frame follows on.  # (S,)"""
    words = np.ascontiguousarray(public.numpy().astype("<f4", copy=False))
    return bytes(Frame(Frame.parse(sender.snapshot()).header, words.data.cast("B")))


def read(receiver: Receiver, frame: bytes | memoryview, numel: int) -> Tensor:
    """The vector; the receiver takes the next frame after it. WireError, and no change, when it is none.  # (S,)"""
    parsed = Frame.parse(frame)
    if len(parsed.payload) != 4 * numel:
        raise WireError(f"a key frame holds {4 * numel} bytes here; got {len(parsed.payload)}")
    public = torch.from_numpy(np.frombuffer(parsed.payload, "<f4").astype(np.float32))
    if not bool(torch.isfinite(public).all()):
        raise WireError("a key frame holds values that are not finite")
    receiver.adopt(bytes(Frame(parsed.header, b"")))
    return public
