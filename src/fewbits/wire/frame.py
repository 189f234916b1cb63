"""Frame: a header of 16 bytes, then the payload.

| bits | field    | meaning                                                                  |
|------|----------|--------------------------------------------------------------------------|
| 8    | magic    | 0xFB                                                                     |
| 4    | version  | of the wire format, now 1                                                |
| 1    | key      | key frame: both ends forget their shared state                           |
| 1    | snapshot | the payload is a shared state, not a message                             |
| 2    | zero     | reserved                                                                 |
| 16   | codec    | hash of the codec and the Spec                                           |
| 24   | sequence | number of this frame on its link, from 0                                 |
| 16   | ack      | frames accepted on the link the other way, modulo 2^16                   |
| 24   | history  | digest of all frames of the link since its last key frame                |
| 32   | checksum | CRC-32 of the payload, then of the 12 header bytes before this field     |
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from isal.isal_zlib import crc32  # CRC-32 of zlib, 15 times faster: zlib's own takes a tenth of a dense client's round

from fewbits.errors import LocalError, WireError

MAGIC = 0xFB
VERSION = 1
HEADER_BYTES = 16
HEAD = struct.Struct(">BBHBHHBH")  # before the checksum; numbers of 24 bits in two
MAX_SEQUENCE = 2**24 - 1


@dataclass(frozen=True)
class Header:
    """The fields of a frame's header, without the checksum.

    Args:
        codec: hash of the codec and the Spec, 16 bits.
        sequence: number of the frame on its link, from 0, 24 bits.
        history: digest of all frames of the link since its last key frame, 24 bits.
        ack: frames accepted on the link in the other direction, modulo 2^16.
        key: whether this is a key frame, at which both ends forget their shared state.
        snapshot: whether the payload is a shared state, not a message.

    Example:
        >>> Header(codec=0xABCD, sequence=1, history=0).pack().hex()
        'fb10abcd0000010000000000'
    """

    codec: int  # 16 bits: hash of codec and Spec
    sequence: int  # 24 bits: number of the frame on its link, from 0
    history: int  # 24 bits: digest of the link since its last key frame
    ack: int = 0  # 16 bits: frames accepted in the other direction
    key: bool = False  # both ends forget their shared state
    snapshot: bool = False  # the payload is a shared state

    def pack(self) -> bytes:
        """Pack the 12 bytes before the checksum; LocalError for a field that is too large."""
        if self.sequence > MAX_SEQUENCE:
            raise LocalError(f"frame: a link carries {MAX_SEQUENCE} frames; open a new one (sequence {self.sequence})")
        flags = VERSION << 4 | self.key << 3 | self.snapshot << 2
        try:
            return HEAD.pack(
                *(MAGIC, flags, self.codec, self.sequence >> 16, self.sequence & 0xFFFF),
                *(self.ack, self.history >> 16, self.history & 0xFFFF),
            )
        except struct.error:
            for name, bits in (("codec", 16), ("sequence", 24), ("ack", 16), ("history", 24)):
                if not 0 <= getattr(self, name) < 2**bits:
                    raise LocalError(f"frame: {name} must fit in {bits} bits; got {getattr(self, name)}") from None
            raise


@dataclass(frozen=True)
class Frame:
    """A header and its payload; `bytes(frame)` is what travels, and its length is the only byte count.

    Args:
        header: the fields of the first 16 bytes.
        payload: the encoded message.

    Example:
        >>> data = bytes(Frame(Header(codec=1, sequence=0, history=0), b"abc"))
        >>> len(data), bytes(Frame.parse(data).payload)
        (19, b'abc')
    """

    header: Header  # 16 bytes on the wire
    payload: bytes | memoryview  # the encoded message

    @cached_property
    def crc(self) -> int:
        """CRC-32 of the payload alone."""
        return crc32(self.payload)

    def __bytes__(self) -> bytes:
        return b"".join(Frame.seal(self.header, [self.payload])[0])

    @staticmethod
    def seal(header: Header, chunks: Sequence[bytes | memoryview]) -> tuple[list[bytes | memoryview], int]:
        """Return the pieces of a frame whose payload is the chunks, uncopied, and the payload's CRC-32."""
        head, crc = header.pack(), 0
        for chunk in chunks:
            crc = crc32(chunk, crc)
        return [head, crc32(head, crc).to_bytes(4, "big"), *chunks], crc

    @staticmethod
    def parse(data: bytes | bytearray | memoryview) -> Frame:
        """Parse a frame; its payload is a view of `data`, not a copy.

        Raises:
            WireError: magic, version, reserved bits or checksum are wrong; the text says which.
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            raise WireError(f"a frame is bytes; got {type(data).__name__}")
        if isinstance(data, memoryview) and not data.c_contiguous:
            data = bytes(data)
        data = memoryview(data).cast("B")  # before len(): the length of a memoryview counts items, not bytes
        if len(data) < HEADER_BYTES:
            raise WireError(f"a frame has at least {HEADER_BYTES} bytes; got {len(data)}")
        magic, flags, codec, high, sequence, ack, older, history = HEAD.unpack_from(data)
        if magic != MAGIC:
            raise WireError(f"not a fewbits frame: first byte is 0x{magic:02X}, expected 0x{MAGIC:02X}")
        if flags >> 4 != VERSION:
            raise WireError(f"frame has wire version {flags >> 4}; this library reads version {VERSION}")
        payload = data[HEADER_BYTES:]
        crc = crc32(payload)
        expected = crc32(data[:12], crc)
        found = int.from_bytes(data[12:16], "big")
        if found != expected:
            raise WireError(f"checksum is {found:08X}, the bytes give {expected:08X}: the frame was damaged")
        if flags & 3:
            raise WireError("reserved header bits are not zero")
        header = Header(
            codec=codec,
            sequence=high << 16 | sequence,
            history=older << 16 | history,
            ack=ack,
            key=bool(flags & 8),
            snapshot=bool(flags & 4),
        )
        frame = Frame(header, payload)
        frame.__dict__["crc"] = crc  # cached_property: it was just computed
        return frame

    def acknowledging(self, ack: int) -> Frame:
        """Return the same frame with another acknowledgement."""
        return replace(self, header=replace(self.header, ack=ack % 2**16))


def acknowledged(data: bytes | bytearray | memoryview) -> int:
    """Read the acknowledgement of an unchecked frame; 0 when the frame is too short."""
    return int.from_bytes(data[7:9], "big")
