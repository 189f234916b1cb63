"""Scalars and keys in a payload."""

from __future__ import annotations

import math
import struct

from fewbits.errors import LocalError, WireError
from fewbits.rng import Key
from fewbits.wire.reader import BitReader
from fewbits.wire.writer import BitWriter

MAX_KEY_BYTES = 1024


def write_scalar(value: float, out: BitWriter) -> None:
    """A float32, 32 bits."""
    out.write(int.from_bytes(struct.pack(">f", value), "big"), 32)


def read_scalar(src: BitReader) -> float:
    """A finite float32; WireError otherwise."""
    (value,) = struct.unpack(">f", src.read(32).to_bytes(4, "big"))
    if not math.isfinite(value):
        raise WireError("a coefficient is not finite")
    return value


def write_key(key: Key, out: BitWriter) -> None:
    """A key's text, after its length in 16 bits."""
    text = key.text().encode()
    if len(text) > MAX_KEY_BYTES:
        raise LocalError(f"a common key's text has {len(text)} bytes; at most {MAX_KEY_BYTES} can be stored")
    out.write(len(text), 16)
    out.write_bytes(text)


def read_key(src: BitReader) -> Key:
    """Read back what was written."""
    size = src.read(16)
    if size > MAX_KEY_BYTES:
        raise WireError(f"a stored key has {size} bytes; at most {MAX_KEY_BYTES} are allowed")
    try:
        key = Key.parse(src.read_bytes(size).tobytes().decode())
        key.digest()  # labels that cannot be encoded show here
        return key
    except (ValueError, RecursionError) as error:  # UnicodeError and LocalError are ValueErrors
        raise WireError(f"a stored key cannot be read: {error}") from None
