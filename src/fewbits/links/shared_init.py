"""SharedInit: a first value that both ends can make for themselves, so that a key and a digest are all that travels."""

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
    """The key of version 1, and what makes the value from it; receivers have the same `build`."""

    key: Key
    build: Build

    def frame(self, value: Any, codec: Codec, spec: Spec | TreeSpec) -> bytes | None:
        """The frame that stands for version 1; None when the seed gives another value."""
        given, ours = (digest(x for _, x in named(tree)) for tree in (self.build(self.key), value))
        return write_seed(self.key, value, codec, spec) if given == ours else None


def write_seed(key: Key, value: Any, codec: Codec, spec: Spec | TreeSpec) -> bytes:
    """A frame with the key and the digest of the value that it gives."""
    out = BitWriter()
    with out.section("key"):
        write_key(key, out)
    with out.section("digest"):
        out.write_bytes(digest(x for _, x in named(value)))
    header = Header(codec_hash(codec, spec, SEED), 1, first_history(codec, spec), snapshot=True)
    return bytes(Frame(header, out.finish()))


def read_seed(frame: Frame, spec: Spec | TreeSpec, build: Build | None) -> Any:
    """The value of version 1; DesyncError when it cannot be made here, or is another one here."""
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
    """Raise LocalError unless it is a Seed or None."""
    if seed is not None and not (isinstance(seed, SharedInit) and isinstance(seed.key, Key) and callable(seed.build)):
        raise LocalError(f"Broadcast: seed must be a SharedInit(key, build) or None; got {seed!r}")


def seed_state(seed: SharedInit, frame: bytes, codec: Lift, spec: Spec | TreeSpec) -> ReceiverState:
    """What a receiver holds that made version 1 from the seed; `frame`: the one that told it the key."""
    value = seed.build(seed.key)
    return ReceiverState(value, 1, Frame.parse(frame).header.history, codec.start(value, spec))
