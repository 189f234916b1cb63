"""Key frames: a node's whole public vector, for a neighbour that lost a frame."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fewbits.errors import WireError
from fewbits.links import Receiver
from fewbits.wire import Frame


def write(snapshot: bytes, public: Tensor) -> bytes:
    """A frame with the public vector (S,) in float32; the next frame of the sender of the snapshot follows it."""
    numbers = np.ascontiguousarray(public.numpy().astype("<f4", copy=False))
    return bytes(Frame(Frame.parse(snapshot).header, numbers.data.cast("B")))


def read(receiver: Receiver, frame: bytes | memoryview, numel: int) -> Tensor:
    """The public vector (numel,); the receiver then expects the next frame.

    Raises WireError and changes nothing when the frame is not a key frame of this length, or not finite.
    """
    parsed, size = Frame.parse(frame), 4 * numel
    if len(parsed.payload) != size:
        raise WireError(f"a key frame has {size} bytes here; got {len(parsed.payload)}")
    public = torch.from_numpy(np.frombuffer(parsed.payload, "<f4").astype(np.float32))
    if not bool(torch.isfinite(public).all()):
        raise WireError("a key frame has values that are not finite")
    receiver.adopt(bytes(Frame(parsed.header, b"")))
    return public
