"""Passage: bits of one payload that another payload repeats, at any place, as if they were written there anew."""

from __future__ import annotations

from typing import NamedTuple


class Passage(NamedTuple):
    """Bits up to the first whole byte, which the fill before it divides from the rest."""

    head: int  # the bits before the fill, as one integer
    head_bits: int
    body: bytes | None  # whole bytes behind it; None: there was no fill
    tail: int  # what is left
    tail_bits: int

    @staticmethod
    def of(data: bytes, start: int, stop: int, aligned: int | None) -> Passage:
        """Bits start..stop of `data`; `aligned`: where the writer or the reader first went to a whole byte."""
        if aligned is None:
            return Passage(_bits(data, start, stop), stop - start, None, 0, 0)
        first, last = -(-aligned // 8), stop // 8
        body = bytes(data[first:last])
        return Passage(_bits(data, start, aligned), aligned - start, body, _bits(data, 8 * last, stop), stop - 8 * last)


def _bits(data: bytes, start: int, stop: int) -> int:
    """Bits start..stop as an integer, most significant first."""
    first, last = start // 8, -(-stop // 8)
    return int.from_bytes(data[first:last], "big") >> (8 * last - stop) & ((1 << (stop - start)) - 1)
