"""A note beside a message: the step that a rank is at, and a checksum of what must be equal there."""

from __future__ import annotations

STEP_BITS, CHECKSUM_BITS = 31, 32


def noted(step: int, checksum: int) -> int:
    """Both in 63 bits; of a step its lowest 31.

    >>> read_note(noted(30, 0xffffffff))
    (30, 4294967295)
    """
    return (step % (1 << STEP_BITS)) << CHECKSUM_BITS | checksum


def read_note(note: int) -> tuple[int, int]:
    """Undo `noted`."""
    return note >> CHECKSUM_BITS, note % (1 << CHECKSUM_BITS)
