"""Encoding of scalars and keys in a payload."""

from __future__ import annotations

import math
import struct

from fewbits.errors import LocalError, WireError
from fewbits.rng import Key
from fewbits.wire.reader import BitReader
from fewbits.wire.writer import BitWriter

MAX_KEY_BYTES = 1024


def write_scalar(value: float, out: BitWriter) -> None:
    """Append a float32 of 32 bits."""
    out.write(int.from_bytes(struct.pack(">f", value), "big"), 32)


def read_scalar(src: BitReader) -> float:
    """Read a float32; WireError unless it is finite."""
    (value,) = struct.unpack(">f", src.read(32).to_bytes(4, "big"))
    if not math.isfinite(value):
        raise WireError("a coefficient is not finite")
    return value


def write_key(key: Key, out: BitWriter) -> None:
    """Append a key: the length of its text in 16 bits, then the text."""
    text = key.text().encode()
    if len(text) > MAX_KEY_BYTES:
        raise LocalError(f"a common key's text has {len(text)} bytes; at most {MAX_KEY_BYTES} can be stored")
    out.write(len(text), 16)
    out.write_bytes(text)


def read_key(src: BitReader) -> Key:
    """Read a key; WireError for a text that is too long or invalid."""
    size = src.read(16)
    if size > MAX_KEY_BYTES:
        raise WireError(f"a stored key has {size} bytes; at most {MAX_KEY_BYTES} are allowed")
    try:
        key = Key.parse(src.read_bytes(size).tobytes().decode())
        key.digest()  # a label that cannot be encoded fails here
        return key
    except (ValueError, RecursionError) as error:  # UnicodeError and LocalError are ValueErrors
        raise WireError(f"a stored key cannot be read: {error}") from None
