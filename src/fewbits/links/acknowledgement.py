"""The arithmetic of acknowledgements: 16 bits on the wire stand for a frame number of 24 bits."""

from __future__ import annotations

from fewbits.wire.frame import MAX_SEQUENCE

ACK_VALUES = 2**16


def frames_ahead(ack: int, sequence: int) -> int:
    """How many frames more than `sequence` the peer has accepted; negative when it has accepted fewer.

    `ack` is the peer's count of accepted frames modulo 2^16. The result is the signed difference modulo 2^16, from
    -2^15 to 2^15 - 1. No peer has accepted fewer than 0 frames or more than a link carries, so near either end of a
    link a larger difference in the other direction is understood.

    >>> frames_ahead(5, 3), frames_ahead(3, 5)
    (2, -2)
    >>> frames_ahead(4, 2**16 - 1), frames_ahead(2**16 - 1, 2**16 + 4)
    (5, -5)
    """
    ahead = (ack - sequence + ACK_VALUES // 2) % ACK_VALUES - ACK_VALUES // 2
    if sequence + ahead < 0:
        return ahead + ACK_VALUES
    return ahead if sequence + ahead <= MAX_SEQUENCE else ahead - ACK_VALUES
