"""Messages of the secure sum: items of a fixed size for some clients; docs/wire-format.md, "Secure sum".

    version and kind (1 byte), round (4), count (2), count items in ascending order of their clients, CRC-32 (4)

An item is a client's number (4 bytes) and the content of its kind. Integers are big-endian.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from itertools import pairwise
from zlib import crc32

from fewbits.errors import LocalError, WireError
from fewbits.privacy.secure_sum.key_agreement import PUBLIC_BYTES, TAG_BYTES
from fewbits.privacy.secure_sum.shamir import SHARE_BYTES

VERSION = 1
HEAD_BYTES, CRC_BYTES, NUMBER_BYTES = 7, 4, 4
OVERHEAD = HEAD_BYTES + CRC_BYTES  # of a message, beside its items
MOST_CLIENTS = 2**16 - 1
SEALED_BYTES = 2 * SHARE_BYTES + TAG_BYTES


class Kind(IntEnum):
    """What a message holds, in the order of the protocol."""

    KEYS = 1  # a client's two public keys
    ROSTER = 2  # those of all clients
    SHARES = 3  # a client's sealed shares, by receiver
    DELIVERY = 4  # the sealed shares for a client, by sender
    SURVIVORS = 5  # whose masked words the server has
    REVEAL = 6  # a share for each client: of its self mask if it survived, else of its mask key


CONTENT = {
    Kind.KEYS: 2 * PUBLIC_BYTES,
    Kind.ROSTER: 2 * PUBLIC_BYTES,
    Kind.SHARES: SEALED_BYTES,
    Kind.DELIVERY: SEALED_BYTES,
    Kind.SURVIVORS: 0,
    Kind.REVEAL: SHARE_BYTES,
}  # bytes of an item beside its number


def message_bytes(kind: Kind, items: int) -> int:
    """Length of a message.

    >>> message_bytes(Kind.KEYS, 1)
    79
    """
    return OVERHEAD + items * (NUMBER_BYTES + CONTENT[kind])


def client_bytes(clients: int) -> tuple[int, int]:
    """(bytes up, bytes down) of one client in a round of so many who all stay, beside its words.

    >>> client_bytes(20), client_bytes(100)
    ((2475, 3107), (12315, 15747))
    """
    if clients < 2:  # no sum of one: the round ends with its keys
        return message_bytes(Kind.KEYS, 1), 0
    up = {Kind.KEYS: 1, Kind.SHARES: clients - 1, Kind.REVEAL: clients}
    down = {Kind.ROSTER: clients, Kind.DELIVERY: clients - 1, Kind.SURVIVORS: clients}
    return tuple(sum(message_bytes(*each) for each in way.items()) for way in (up, down))  # pyright: ignore


def write(kind: Kind, round: int, items: Mapping[int, bytes]) -> bytes:
    """The message with these contents by client.

    >>> write(Kind.SURVIVORS, 7, {0: b"", 3: b""}).hex()
    '1500000007000200000000000000033ef24e9c'
    """
    if len(items) > MOST_CLIENTS:
        raise LocalError(f"secure sum: at most {MOST_CLIENTS:,} clients in a round; got {len(items):,}")
    head = bytes([VERSION << 4 | kind]) + round.to_bytes(4, "big") + len(items).to_bytes(2, "big")
    data = head + b"".join(number.to_bytes(NUMBER_BYTES, "big") + items[number] for number in sorted(items))
    return data + crc32(data).to_bytes(CRC_BYTES, "big")


def read(kind: Kind, round: int, data: bytes | bytearray | memoryview) -> dict[int, bytes]:
    """Contents by client, ascending; WireError unless it is a sound message of this kind and round."""
    data = bytes(data)
    if len(data) < OVERHEAD:
        raise WireError(f"a message of the secure sum has {OVERHEAD} bytes or more; got {len(data)}")
    count, size = int.from_bytes(data[5:7], "big"), NUMBER_BYTES + CONTENT[kind]
    if data[0] != VERSION << 4 | kind:
        raise WireError(f"expected a {kind.name} message of version {VERSION}; got version and kind {data[0]:#04x}")
    if len(data) != OVERHEAD + count * size:
        raise WireError(f"a {kind.name} message of {count} items has {OVERHEAD + count * size} bytes; got {len(data)}")
    if crc32(data[:-CRC_BYTES]) != int.from_bytes(data[-CRC_BYTES:], "big"):
        raise WireError(f"the checksum of a {kind.name} message does not fit: it was damaged")
    if int.from_bytes(data[1:5], "big") != round:
        raise WireError(
            f"expected a {kind.name} message of round {round}; got round {int.from_bytes(data[1:5], 'big')}"
        )
    return _items(kind, [data[at : at + size] for at in range(HEAD_BYTES, HEAD_BYTES + count * size, size)])


def _items(kind: Kind, items: list[bytes]) -> dict[int, bytes]:
    numbers = [int.from_bytes(item[:NUMBER_BYTES], "big") for item in items]
    if any(a >= b for a, b in pairwise(numbers)):
        raise WireError(f"the clients of a {kind.name} message do not ascend: {numbers[:20]}")
    return {number: item[NUMBER_BYTES:] for number, item in zip(numbers, items, strict=True)}
