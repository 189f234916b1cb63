"""Two ends of a link to try a codec on, and what to compare."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fewbits.codecs import Codec
from fewbits.codecs.base import raw_bits
from fewbits.links import Receiver, Sender
from fewbits.links.finite import named
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec
from fewbits.testing.values import TREE
from fewbits.wire import BitWriter, Frame

PRIVATE, COMMON = Key(1), Key(2)


def ends(codec: Codec, spec: Spec | TreeSpec = TREE, private: Key = PRIVATE) -> tuple[Sender, Receiver]:
    """The two ends of a fresh link."""
    return Sender(codec, spec, private, COMMON), Receiver(codec, spec, COMMON)


def deliver(sender: Sender, receiver: Receiver, x: Any) -> tuple[bytes, Any]:
    """One frame over a perfect wire: (the frame, the value that came out)."""
    frame = sender.send(x)
    value = receiver.receive(frame)
    sender.commit()
    return frame, value


def run(
    codec: Codec, xs: Iterable[Any], spec: Spec | TreeSpec = TREE
) -> tuple[list[bytes], list[Any], Sender, Receiver]:
    """All values over a perfect wire: frames, values, and the two ends after."""
    sender, receiver = ends(codec, spec)
    pairs = [deliver(sender, receiver, x) for x in xs]
    return [frame for frame, _ in pairs], [value for _, value in pairs], sender, receiver


def fingerprint(value: Any) -> str:
    """A digest of a value's names, shapes and bits."""
    digest = hashlib.blake2b(digest_size=8)
    for name, x in named(value):
        digest.update(f"{name} {tuple(x.shape)} {x.dtype} ".encode())
        digest.update(raw_bits(x.contiguous().reshape(-1)).numpy().tobytes())
    return digest.hexdigest()


def flattened(value: Any) -> Tensor:
    """All numbers of a value, end to end.  # (numel,) float64"""
    return torch.cat([x.reshape(-1).double() for _, x in named(value)])


def payload_of(frame: bytes) -> bytes:
    """What follows the header."""
    return bytes(frame[16:])


def state_bytes(sender: Sender, spec: Spec | TreeSpec) -> bytes:
    """The shared state at the sender, as it would be written."""
    out = BitWriter()
    sender.codec.write_state(sender.state, spec, out)
    return out.finish()


def restamp(frame: bytes, payload: bytes | None = None, **header: Any) -> bytes:
    """The frame with another payload or header fields, and the checksum that goes with them."""
    parsed = Frame.parse(frame)
    return bytes(Frame(replace(parsed.header, **header), parsed.payload if payload is None else payload))
