"""Bundle: the frames for one receiver of a broadcast, as one message."""

from __future__ import annotations

from collections.abc import Sequence

from isal.isal_zlib import crc32

from fewbits.errors import WireError
from fewbits.wire import Frame

MAX_FRAMES = 2**16
CHECKSUM_BYTES = 4  # CRC-32, as in a frame's header


def wrap(frames: Sequence[bytes], ack: int) -> bytes:
    """Frames as a bundle, of which the last one carries the receiver's acknowledgement.

    Without frames the acknowledgement follows the count, and then a checksum, which frames have in their headers.
    """
    if not frames:
        return _sealed(pack([]) + leb(ack % 2**16))
    return pack([*frames[:-1], bytes(Frame.parse(frames[-1]).acknowledging(ack))])


def wrapped_bytes(lengths: Sequence[int]) -> int:
    """len() of a bundle of frames of these lengths; without frames, with the shortest acknowledgement."""
    return len(leb(len(lengths))) + sum(len(leb(n)) + n for n in lengths) + (0 if lengths else 1 + CHECKSUM_BYTES)


def pack(frames: Sequence[bytes]) -> bytes:
    """Count, then each frame after its length; all numbers LEB128."""
    return b"".join([leb(len(frames)), *(part for frame in frames for part in (leb(len(frame)), frame))])


def unpack(bundle: bytes) -> list[bytes]:
    """Undo `pack`; WireError on anything else."""
    count, at = unleb(bundle, 0)
    if count > MAX_FRAMES:
        raise WireError(f"bundle claims {count} frames; at most {MAX_FRAMES} are allowed")
    frames = []
    for _ in range(count):
        length, at = unleb(bundle, at)
        if length > len(bundle) - at:
            raise WireError(
                f"bundle ends too early: a frame of {length} bytes at byte {at}, {len(bundle) - at} are left"
            )
        frames.append(bytes(bundle[at : at + length]))
        at += length
    if at != len(bundle):
        raise WireError(f"bundle is too long: {len(bundle) - at} bytes follow its last frame")
    return frames


def lone_ack(bundle: bytes) -> int | None:
    """The acknowledgement in a bundle without frames; None: it has frames. WireError when it is damaged."""
    if bundle[:1] != pack([]):
        return None
    ack, end = unleb(bundle, 1)
    if ack >= 2**16 or end + CHECKSUM_BYTES != len(bundle):
        raise WireError(
            "a bundle without frames holds a count of zero, an acknowledgement of 16 bits and a checksum, no more; "
            f"got {len(bundle)} bytes"
        )
    if bundle != (sound := _sealed(bundle[:end])):
        found, expected = (x[end:].hex().upper() for x in (bundle, sound))
        raise WireError(f"checksum is {found}, the bytes give {expected}: the bundle without frames was damaged")
    return ack


def _sealed(data: bytes) -> bytes:
    return bytes(data) + crc32(data).to_bytes(CHECKSUM_BYTES, "big")


def leb(value: int) -> bytes:
    """A number in LEB128: 7 bits a byte, least significant first."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def unleb(data: bytes, at: int) -> tuple[int, int]:
    """(the number that begins at byte `at`, the position behind it); WireError when it is malformed."""
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            if shift and not byte:
                raise WireError("a number in LEB128 has needless bytes")
            return value, at
    raise WireError("a number in LEB128 does not end within five bytes")
