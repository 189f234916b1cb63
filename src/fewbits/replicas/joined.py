"""joined: the pieces of a message end to end, in memory that a long one is quickly written to."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fewbits.codecs import large


def joined(pieces: Sequence[bytes | memoryview]) -> memoryview:
    """All pieces, copied once.

    >>> bytes(joined([b"ab", memoryview(b"c")]))
    b'abc'
    """
    parts = [memoryview(piece).cast("B") for piece in pieces if len(piece)]
    out, at = large.empty(sum(map(len, parts)), torch.uint8).numpy().data, 0
    for part in parts:
        out[at : at + len(part)] = part
        at += len(part)
    return out
