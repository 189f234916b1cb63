"""What two ends must agree on before the first frame, and the digest of what was on the wire since."""

from __future__ import annotations

import hashlib

from fewbits.codecs import Codec
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec
from fewbits.wire.identity import canonical

# Kinds of frame that are no messages of the codec itself; each has a hash of its own.
# The end of a sentence about a frame of another hash.
OTHER = "The ends differ in their method, or in the shapes of their models"
SEED, PATCH, PERSONAL = "seed of ", "patch of ", "own "


def codec_hash(codec: Codec, spec: Spec | TreeSpec, kind: str = "") -> int:
    """16 bits that name the codec and the Spec; `kind`: of frames that are no messages of the codec itself."""
    return int.from_bytes(_digest(codec, spec, kind)[:2], "big")


def first_history(codec: Codec, spec: Spec | TreeSpec, kind: str = "") -> int:
    """The history of a link on which nothing has been sent: 24 more bits of the same digest."""
    return int.from_bytes(_digest(codec, spec, kind)[2:5], "big")


def next_history(history: int, common: Key, sequence: int, payload_crc: int) -> int:
    """24-bit digest of the history so far, the common key, and the frame that was just decoded."""
    text = b"".join(
        (history.to_bytes(3, "big"), common.digest(8), sequence.to_bytes(4, "big"), payload_crc.to_bytes(4, "big"))
    )
    return int.from_bytes(hashlib.blake2b(text, digest_size=3, person=b"fewbits.history").digest(), "big")


def _digest(codec: Codec, spec: Spec | TreeSpec, kind: str) -> bytes:
    text = f"{kind}{canonical(codec)}\n{canonical(spec)}"
    return hashlib.blake2b(text.encode(), digest_size=8, person=b"fewbits.codec").digest()
