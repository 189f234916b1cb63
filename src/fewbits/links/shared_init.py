"""SharedInit: a first value that both ends make from a key, so that only the key and a digest travel."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fewbits.codecs import Codec, Lift
from fewbits.codecs.chain import to_raw_bits
from fewbits.errors import DesyncError, LocalError
from fewbits.links.finite import all_finite, check_tree, named
from fewbits.links.identity import SEED, codec_hash, first_history
from fewbits.links.receiver_state import ReceiverState
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec
from fewbits.wire import BitReader, BitWriter, Frame, Header
from fewbits.wire.values import read_key, write_key

Build = Callable[[Key], Any]  # key -> a tensor, or a dict of them, of the link's Spec
DIGEST_BYTES = 8


@dataclass(frozen=True)
class SharedInit:
    """The key of version 1, and the function that makes the value from it.

    At first contact a receiver with the same `build` gets the key and an 8-byte digest of the value, not the value. It
    makes the value itself and compares digests.

    Args:
        key: given to `build`.
        build: key -> a tensor or a dict of tensors, the same bits at both ends.

    Raises:
        LocalError: `Broadcast` was given something else as its seed.
        DesyncError: the receiver has no `build`, or its `build` gives another value, as another library version may.

    >>> import torch, fewbits as fb
    >>> build = lambda key: torch.randn(1000, generator=key.generator())
    >>> codec, spec = fb.Delta(fb.Raw()), fb.Spec((1000,))
    >>> server = fb.links.Broadcast(codec, spec, fb.Key(0), seed=fb.links.SharedInit(fb.Key(7), build))
    >>> server.publish(build(fb.Key(7)))
    >>> bundle = server.bundle(None)
    >>> len(bundle), torch.equal(fb.links.Subscriber(codec, spec, build).receive(bundle), server.value)
    (31, True)
    """

    key: Key
    build: Build

    def frame(self, value: Any, codec: Codec, spec: Spec | TreeSpec) -> bytes | None:
        """The frame that stands for version 1; None when `build` gives another value than `value`."""
        given, ours = (digest(x for _, x in named(tree)) for tree in (self.build(self.key), value))
        return write_seed(self.key, value, codec, spec) if given == ours else None


def write_seed(key: Key, value: Any, codec: Codec, spec: Spec | TreeSpec) -> bytes:
    """A frame with the key, and the digest of the value made from it."""
    out = BitWriter()
    with out.section("key"):
        write_key(key, out)
    with out.section("digest"):
        out.write_bytes(digest(x for _, x in named(value)))
    header = Header(codec_hash(codec, spec, SEED), 1, first_history(codec, spec), snapshot=True)
    return bytes(Frame(header, out.finish()))


def read_seed(frame: Frame, spec: Spec | TreeSpec, build: Build | None) -> Any:
    """The value of version 1; DesyncError when this end cannot make it, or makes another."""
    src = BitReader(frame.payload)
    key, expected = parse_seed(src)
    src.finish()
    if build is None:
        raise DesyncError(f"the server sends the seed {key.text()} of its first model; this end was given no build")
    value = build(key)
    check_tree(value, spec, "build")
    found = digest(x for _, x in named(value))
    if found != expected or not all_finite(value):
        raise DesyncError(
            f"the seed {key.text()} gives another model here: its digest is {found.hex()}, the server's "
            f"{expected.hex()}; use the server's library versions and code, or a server without a seed"
        )
    return value


def parse_seed(src: BitReader) -> tuple[Key, bytes]:
    """(the key, the digest) in a seed's payload."""
    with src.section("key"):
        key = read_key(src)
    with src.section("digest"):
        return key, src.read_bytes(DIGEST_BYTES).tobytes()


def digest(tensors: Iterable[Tensor]) -> bytes:
    """8 bytes of BLAKE2b over the words of the tensors, little-endian, end to end."""
    found = hashlib.blake2b(digest_size=DIGEST_BYTES, person=b"fewbits.value")
    for x in tensors:
        words = to_raw_bits(x)
        found.update(words.astype(words.dtype.newbyteorder("<"), copy=False).data)
    return found.digest()


def check_seed(seed: object) -> None:
    """Raise LocalError unless it is a SharedInit or None."""
    if seed is not None and not (isinstance(seed, SharedInit) and isinstance(seed.key, Key) and callable(seed.build)):
        raise LocalError(f"Broadcast: seed must be a SharedInit(key, build) or None; got {seed!r}")


def seed_state(seed: SharedInit, frame: bytes, codec: Lift, spec: Spec | TreeSpec) -> ReceiverState:
    """What a receiver holds that made version 1 from the seed; `frame`: the one that told it the key."""
    value = seed.build(seed.key)
    return ReceiverState(value, 1, Frame.parse(frame).header.history, codec.start(value, spec))
